//! `hallpass completions`

use clap::CommandFactory;

use super::failure::Failure;
use super::output::print;

/// Print a shell's completions
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  hallpass completions bash > ~/.local/share/bash-completion/completions/hallpass")]
pub(super) struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    use clap_complete::Shell as Known;
    let shell = match args.shell {
        Shell::Bash => Known::Bash,
        Shell::Zsh => Known::Zsh,
        Shell::Fish => Known::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut super::Cli::command(), "hallpass", &mut script);
    print(script)
}
