//! `walvec man`

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory};

use super::{Cli, Failure, output};

#[derive(Args)]
pub(crate) struct ManArgs {
    /// Write a page for walvec and one for each command into this directory; read them with `man -l DIR/walvec.1`.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(crate) fn execute(args: &ManArgs) -> Result<ExitCode, Failure> {
    let failed = |error| Failure::new(3, "E_OUTPUT", error);
    if let Some(directory) = &args.dir {
        return write_all(directory).map(|()| ExitCode::SUCCESS).map_err(failed);
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut page).map_err(failed)?;
    output::bytes(&page)
}

/// Writes the first page and those that it refers to.
fn write_all(directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    clap_mangen::generate_to(Cli::command(), directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_that_a_page_refers_to_is_written() {
        let directory = tempfile::tempdir().unwrap();
        write_all(directory.path()).unwrap();
        let page = |name: &str| std::fs::read_to_string(directory.path().join(format!("{name}.1")));
        for name in ["walvec", "walvec-model"] {
            let text = page(name).unwrap().replace("\\-", "-");
            let referred: Vec<&str> = text.lines().filter_map(|line| line.strip_suffix("(1)")).collect();
            assert!(!referred.is_empty());
            for other in referred {
                assert!(page(other).is_ok(), "{name} refers to {other}");
            }
        }
    }
}
