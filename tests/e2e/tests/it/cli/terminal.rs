//! `kiln build` on a terminal: what it draws at each size, at the end, on Ctrl-C and when the size changes.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kiln_harness::{Context, Size, Stage, Terminal, processes_with_argument, within};
use rustix::process::{Pid, Signal, kill_process};

const SOON: Duration = Duration::from_secs(60);
/// A terminal that doesn't break lines when it gets narrower, as the emulator here.
const BREAKS_NO_LINES: (&str, &str) = ("XTERM_VERSION", "XTerm(379)");

/// A context with a step that talks, and then waits until it is told to go on.
struct Held {
    context: Context,
    seconds: String,
}

impl Held {
    fn new(stage: &Stage<'_>) -> Result<Self> {
        let seconds = stage.seconds(300);
        let context = Context::new(&format!(
            "FROM busybox\nCOPY f /f\nRUN for i in 1 2 3 4 5 6 7 8; do echo line-$i; done; sleep {seconds}; \
             echo released\nRUN echo after\n"
        ))?;
        context.put("f", "f")?;
        Ok(Self { context, seconds })
    }

    fn processes(&self) -> Vec<u32> {
        processes_with_argument(&self.seconds)
    }

    fn release(&self) -> Result<()> {
        for pid in self.processes() {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
            kill_process(pid.context("a pid")?, Signal::TERM)?;
        }
        Ok(())
    }
}

/// The command as a shell runs it that has said something before, and says something after.
fn in_a_shell(command: &Command) -> Command {
    let mut shell = Command::new("sh");
    let script = "seq -f above-%g 3; \"$@\"; code=$?; echo below; exit $code";
    shell.args(["-c", script, "sh"]);
    shell.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    if let Some(directory) = command.get_current_dir() {
        shell.current_dir(directory);
    }
    shell
}

fn open(command: &Command, size: Size) -> Result<Terminal> {
    let mut shell = in_a_shell(command);
    shell.env(BREAKS_NO_LINES.0, BREAKS_NO_LINES.1);
    Terminal::start(&shell, size)
}

/// What the shell said is above and below, and between them is one frame.
fn one_frame(terminal: &Terminal) -> Result<Vec<String>> {
    let lines = terminal.lines();
    let shown = lines.join("\n");
    ensure!(
        lines.starts_with(&["above-1", "above-2", "above-3"].map(str::to_owned)),
        "what was above is gone:\n{shown}"
    );
    ensure!(
        lines.iter().filter(|line| line.contains("[+]")).count() == 1,
        "more than one frame:\n{shown}"
    );
    Ok(lines)
}

pub(super) fn draws_at_each_size(stage: &mut Stage<'_>) -> Result<()> {
    // So that what comes first is there in each build alike.
    let held = Held::new(stage)?;
    for (size, said) in [
        ((80, 24), 6),
        ((40, 24), 6),
        ((70, 24), 6),
        ((200, 50), 6),
        ((80, 9), 4),
        ((80, 5), 2),
        ((30, 3), 0),
    ] {
        let command = stage.kiln_build(&held.context, &["--no-cache"])?;
        let mut terminal = open(&command, size)?;
        within("the step waits", SOON, || !held.processes().is_empty())?;
        if said > 0 {
            terminal.shows("=> => # line-8", SOON)?;
        }
        let step = "=> [3/4] RUN for";
        let screen = terminal.shows(step, SOON)?;
        let lines = screen.lines().filter(|line| line.contains("=> => # line-"));
        ensure!(lines.count() == said, "{size:?}:\n{screen}");
        let heads = screen.lines().filter(|line| line.starts_with("[+]"));
        ensure!(heads.count() == 1, "{size:?}:\n{screen}");
        held.release()?;
        terminal.ends_with(0).with_context(|| format!("{size:?}"))?;
        let lines = one_frame(&terminal)?;
        let shown = lines.join("\n");
        ensure!(lines.last().is_some_and(|line| line == "below"), "{shown}");
        let head = lines.iter().find(|line| line.starts_with("[+]"));
        let head = head.context("a heading")?;
        ensure!(head.contains(" FINISHED"), "{size:?}: {head:?}");
        // Its builder is told where there is room, and never wraps.
        ensure!(
            head.contains(".sock") == (size.0 >= 70),
            "{size:?}: {head:?}"
        );
        for step in [
            "[1/4] FROM",
            "[2/4] COPY f",
            "[3/4] RUN for",
            "[4/4] RUN echo",
        ] {
            let own = lines
                .iter()
                .filter(|line| line.contains(&format!(" {step}")));
            let own: Vec<_> = own.collect();
            ensure!(own.len() == 1, "{size:?} {step}:\n{shown}");
            ensure!(own[0].ends_with('s'), "{size:?} without its time: {own:?}");
        }
    }
    let mut again = open(&stage.kiln_build(&held.context, &[])?, (80, 24))?;
    again.ends_with(0)?;
    let shown = one_frame(&again)?.join("\n");
    for step in ["[2/4] COPY", "[3/4] RUN", "[4/4] RUN"] {
        ensure!(shown.contains(&format!("=> CACHED {step}")), "{shown}");
    }
    Ok(())
}

pub(super) fn draws_failures(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new("FROM busybox\nRUN echo a-word-before; exit 7\n")?;
    let command = stage.kiln_build(&context, &["--progress", "tty"])?;
    let mut terminal = open(&command, (80, 12))?;
    terminal.ends_with(1)?;
    let shown = one_frame(&terminal)?.join("\n");
    let mut rest = shown.as_str();
    for part in [
        " FINISHED",
        "=> ERROR [2/2] RUN echo",
        "------\n > [2/2] RUN echo",
        "a-word-before\n------\n",
        "Dockerfile:2\n--------------------\n",
        "   2 | >>> RUN echo a-word-before; exit 7\n",
        "ERROR: build failed: ",
        "exit code: 7",
        "\nbelow",
    ] {
        let at = rest.find(part);
        let at = at.with_context(|| format!("{part:?} should come next:\n{shown}"))?;
        rest = &rest[at + part.len()..];
    }
    Ok(())
}

pub(super) fn is_interrupted(stage: &mut Stage<'_>) -> Result<()> {
    let held = Held::new(stage)?;
    let command = stage.kiln_build(&held.context, &[])?;
    let mut terminal = Terminal::start(&command, (100, 24))?;
    terminal.shows("=> => # line-8", SOON)?;
    terminal.types("\x03")?;
    terminal.ends_with(130)?;
    let shown = terminal.lines().join("\n");
    for word in ["=> CANCELED [3/4] RUN for", "ERROR: canceled"] {
        ensure!(shown.contains(word), "{word}:\n{shown}");
    }
    ensure!(shown.matches("[+]").count() == 1, "{shown}");
    within("the step is gone", SOON, || held.processes().is_empty())
}

pub(super) fn follows_the_size(stage: &mut Stage<'_>) -> Result<()> {
    let held = Held::new(stage)?;
    let command = stage.kiln_build(&held.context, &[])?;
    let mut terminal = open(&command, (100, 24))?;
    terminal.shows("=> => # line-8", SOON)?;
    for size in [(60, 24), (120, 30), (50, 30)] {
        terminal.resize(size)?;
        frame_of(&mut terminal, size, 6)?;
        one_frame(&terminal)?;
    }
    // Where the last frame is higher than the terminal has become, its head is out of reach.
    terminal.resize((60, 8))?;
    frame_of(&mut terminal, (60, 8), 4)?;
    held.release()?;
    terminal.ends_with(0)?;
    let lines = terminal.lines();
    let shown = lines.join("\n");
    ensure!(shown.starts_with("above-1\nabove-2\nabove-3\n"), "{shown}");
    ensure!(shown.ends_with("\nbelow"), "{shown}");
    let heads = lines.iter().filter(|line| line.contains("[+]")).count();
    ensure!(heads == 2, "{heads}:\n{shown}");
    Ok(())
}

/// Waits for a frame that is made for this size and shows so many lines of the step.
fn frame_of(terminal: &mut Terminal, size: Size, said: usize) -> Result<()> {
    let what = format!("a frame of {size:?}");
    // The time of a step is at the edge, which is free.
    let edge = usize::from(size.0) - 1;
    terminal.until(&what, SOON, |screen| {
        let mut lines = screen.lines();
        let step = lines.find(|line| line.contains("=> [3/4] RUN for"));
        step.is_some_and(|line| line.len() == edge && line.ends_with('s'))
            && screen.matches("=> => # line-").count() == said
            && screen.matches("[+]").count() == 1
    })?;
    Ok(())
}

/// What was drawn of a failed build but for what may differ: times, amounts, the builder's name, the order of steps
/// that run at once, the width of a name.
fn look(terminal: &Terminal) -> Result<(Vec<String>, String)> {
    let shown = terminal.lines().join("\n");
    let begin = shown.find("[+] Building ").context("a heading")?;
    let (frame, rest) = shown[begin..]
        .split_once("\n------\n")
        .context("a failure")?;
    let mut lines = frame.lines();
    let head = lines.next().context("a heading")?;
    let (_, state) = head.split_once("s (").context("a state")?;
    let state = state.split("  ").next().unwrap_or_default();
    let mut steps: Vec<String> = lines
        .map(|line| {
            let line = line.rsplit_once(' ').map_or(line, |(name, _)| name);
            let name = line.split("transferring").next().unwrap_or(line);
            name.chars()
                .take(60)
                .collect::<String>()
                .trim_end()
                .to_owned()
        })
        .collect();
    steps.sort();
    steps.push(state.to_owned());
    let (failure, _) = rest.split_once("\n------\n").context("the failure's end")?;
    let excerpt = rest.find("Dockerfile:").context("an excerpt")?;
    let (excerpt, _) = rest[excerpt..].split_once("ERROR: ").context("an error")?;
    Ok((steps, format!("{failure}\n{excerpt}")))
}

pub(super) fn looks_like_buildx(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new("FROM busybox\nCOPY f /f\nRUN echo words\nRUN exit 7\n")?;
    context.put("f", "f")?;
    let ours = |arguments: &[&str]| stage.kiln_build(&context, arguments);
    let theirs = |arguments: &[&str]| {
        let mut command = stage.client.command(["build"]);
        command.args(stage.engine.build_arguments()).args(arguments);
        command.arg(".").current_dir(context.path());
        command
    };
    let draw = |command: &Command| {
        let mut terminal = Terminal::start(command, (80, 40))?;
        terminal.ends_with(1)?;
        look(&terminal).with_context(|| terminal.lines().join("\n"))
    };
    // What each sends for the first time, and the base's layers, come only once.
    draw(&ours(&[])?)?;
    draw(&theirs(&[]))?;
    for arguments in [&["--no-cache"][..], &[]] {
        let (ours, theirs) = (draw(&ours(arguments)?)?, draw(&theirs(arguments))?);
        ensure!(ours == theirs, "{arguments:?}:\n{ours:#?}\n{theirs:#?}");
    }
    Ok(())
}
