//! Manual pages, of what the programs say to `--help`.
//!
//! Invariant: a page says what the program says, in its words and in its lines.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{Programs, VERSION};

/// The window has no `--help`: it would be another start.
const DESKTOP: &str = "\
Kiln's window and tray

Usage: kiln-desktop [--tray] [kiln://ROUTE]

Shows builds, images, the cache and the machine, and starts builds. One that
runs already is shown instead.

Options:
      --tray         Start without showing the window
      kiln://ROUTE   Open a screen, such as kiln://build/REF

Environment:
      KILN_LOG       What to log to standard error
      WEBKIT_DISABLE_COMPOSITING_MODE
                     1: draw without the graphics card; 0: always with it";

/// The page of each program, by its name.
pub(super) fn pages(programs: &Programs) -> Result<Vec<(&'static str, String)>> {
    let kiln = help(&programs.kiln, &[])?;
    let mut commands_of_kiln = Vec::new();
    for command in commands(&kiln) {
        let text = help(&programs.kiln, &[&command])?;
        commands_of_kiln.push((command, text));
    }
    let vmd = help(&programs.vmd, &[])?;
    let kilnd = help(&programs.kilnd, &[])?;
    Ok(vec![
        ("kiln-desktop", page("kiln-desktop", DESKTOP, &[])),
        ("kiln", page("kiln", &kiln, &commands_of_kiln)),
        ("kiln-vmd", page("kiln-vmd", &vmd, &[])),
        ("kilnd", page("kilnd", &kilnd, &[])),
    ])
}

fn help(program: &Path, command: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(command)
        .arg("--help")
        .output()
        .with_context(|| format!("can't run {}", program.display()))?;
    ensure!(
        output.status.success(),
        "{} has no help on {command:?}",
        program.display()
    );
    let text = String::from_utf8(output.stdout).context("a help isn't UTF-8")?;
    Ok(text.trim_end().to_owned())
}

/// Those that a program's help lists.
fn commands(help: &str) -> Vec<String> {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    listed
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

/// The help as a page, whose first line is what the program is; and that of each of its commands.
fn page(name: &str, help: &str, commands: &[(String, String)]) -> String {
    let (what, rest) = help.split_once('\n').unwrap_or((help, ""));
    let mut page = format!(
        ".TH {} 1 \"\" \"Kiln {VERSION}\" \"Kiln\"\n.SH NAME\n{} \\- {}\n.SH DESCRIPTION\n{}",
        escaped(&name.to_uppercase()),
        escaped(name),
        escaped(what.trim_end_matches('.')),
        as_it_is(rest)
    );
    if !commands.is_empty() {
        page.push_str(".SH COMMANDS\n");
    }
    for (command, help) in commands {
        let _ = write!(page, ".SS {name} {}\n{}", escaped(command), as_it_is(help));
    }
    page
}

fn as_it_is(text: &str) -> String {
    let mut lines = String::from(".nf\n");
    for line in text.trim().lines() {
        // A line that begins with a dot or a quote would be an instruction.
        let guard = if line.starts_with(['.', '\'']) {
            "\\&"
        } else {
            ""
        };
        let _ = writeln!(lines, "{guard}{}", escaped(line));
    }
    lines.push_str(".fi\n");
    lines
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\e")
        .replace('-', "\\-")
        .replace('\'', "\\(aq")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELP: &str = "Builds things.\n\nUsage: kiln [COMMAND]\n\nCommands:\n  build    Build it,\n             in one go\n  du       Say what's used\n  help     Print this\n\nOptions:\n  -h\n.dotted \\";

    #[test]
    fn commands_are_those_of_the_list() {
        assert_eq!(commands(HELP), ["build", "du"]);
    }

    #[test]
    fn a_page_says_what_the_help_says() {
        let du = ("du".to_owned(), "Says it\n\nUsage: kiln du".to_owned());
        let page = page("kiln", HELP, &[du]);
        assert!(
            page.contains(".SH NAME\nkiln \\- Builds things\n"),
            "{page}"
        );
        for line in [
            "Usage: kiln [COMMAND]",
            "  du       Say what\\(aqs used",
            "  \\-h",
            "\\&.dotted \\e",
            ".SS kiln du",
            "Usage: kiln du",
        ] {
            assert!(page.lines().any(|l| l == line), "{line}: {page}");
        }
    }
}
