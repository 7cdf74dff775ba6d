//! The tool of operators: see `edge::ctl`. Here the outside comes in: arguments, environment, terminal.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use edge::ctl::args::Cli;
use edge::ctl::run::{Terminal, USAGE, run};
use edge::ctl::style::Style;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let wrong = error.use_stderr();
            // Help that cannot be printed helps nobody.
            let _ = error.print();
            return if wrong { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let stdout = std::io::stdout();
    let width = terminal_size::terminal_size().map(|(width, _)| usize::from(width.0));
    let style =
        Style::decide(stdout.is_terminal(), variable("NO_COLOR").as_deref(), variable("TERM").as_deref(), width);
    let mut terminal = Terminal {
        out: &mut stdout.lock(),
        error: &mut std::io::stderr().lock(),
        style,
        is_terminal: stdout.is_terminal(),
        socket: variable("EDGECTL_SOCKET").map(Into::into),
    };
    ExitCode::from(run(&cli, &mut terminal))
}
