//! `hallpass man`

use std::fs;
use std::path::PathBuf;

use clap::CommandFactory;

use super::failure::Failure;
use super::output::print;

/// Print the man page
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  hallpass man | man -l -
  hallpass man --out ~/.local/share/man/man1")]
pub(super) struct Args {
    /// Write a page for each command into this folder instead
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let command = super::Cli::command();
    if let Some(folder) = args.out {
        return fs::create_dir_all(&folder)
            .and_then(|()| clap_mangen::generate_to(command, &folder))
            .map_err(|error| Failure::output(format!("{}: {error}", folder.display())));
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(command)
        .render(&mut page)
        .map_err(Failure::internal)?;
    print(page)
}
