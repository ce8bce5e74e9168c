//! Codes of what a command asks a running walvec.

use super::{Code, CodeSubject, UNTOUCHED};

pub(super) static SUBJECT: CodeSubject = CodeSubject {
    title: "The running walvec and its API",
    intro: None,
    codes: &[
        Code {
            name: "E_LISTEN",
            meaning: "The address of the search page and the API cannot be used. Usually another process uses the \
                      port.",
            risk: "Nothing. Nothing was started.",
            remedy: "Stop what uses the port, or choose another: `--listen 127.0.0.1:8083`, or `server.listen`.",
            see: Some("operations.md#who-may-ask"),
        },
        Code {
            name: "E_TOKEN",
            meaning: "The running walvec asks for its token, and the command has none, or another one. As a warning: \
                      the token can be guessed.",
            risk: "The command has done nothing. With a token that can be guessed, programs of this machine can read \
                   your rows.",
            remedy: "Set `WALVEC_TOKEN` to its `server.token`, or type the command as the user that runs walvec. For \
                     the warning, make a new one: `openssl rand -hex 32`.",
            see: Some("operations.md#who-may-ask"),
        },
        Code {
            name: "E_REQUEST",
            meaning: "The running walvec refused the request of the command. The message says why.",
            risk: UNTOUCHED,
            remedy: "Do what the message says. Commands that change what is stored must be typed by the user that \
                     runs walvec.",
            see: Some("operations.md#who-may-ask"),
        },
        Code {
            name: "E_SERVER",
            meaning: "The running walvec did not answer, or not as the command expects.",
            risk: "Nothing is lost. What the running walvec has begun for the command continues without it.",
            remedy: "`walvec status`, then type the command again.",
            see: Some("operations.md#status"),
        },
        Code {
            name: "E_TASK_RUNNING",
            meaning: "The running walvec is busy with another task, and does one at a time.",
            risk: UNTOUCHED,
            remedy: "Wait until it ends, then type the command again. `GET /api/v1/tasks/{id}` shows the latest \
                     task.",
            see: Some("reindex-and-backfill.md"),
        },
        Code {
            name: "E_BUSY",
            meaning: "Another job is already waiting, or the pipeline has just ended.",
            risk: UNTOUCHED,
            remedy: "Wait until it ends, then type the command again.",
            see: Some("reindex-and-backfill.md"),
        },
    ],
};
