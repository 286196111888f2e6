//! `kiln build`: buildx's flags, buildx's displays, any builder.
//!
//! ```text
//!  arguments ──► request ──► prepared ──► solve, with a display ──► outputs: streams, files, words
//! ```

mod arguments;
mod old_flags;
mod outputs;
mod policy;
mod request;

use std::process::ExitCode;
use std::sync::Arc;

use crate::arguments::Global;
use crate::builder::Builder;
use crate::commands::{call, credentials, report};
use crate::console;
use crate::failure::{Failure, Outcome};
use crate::progress::{self, Form, Mode, Progress};

pub(crate) use arguments::BuildArguments;

pub(crate) async fn run(arguments: BuildArguments, global: &Global) -> Outcome {
    let builder = Builder::find(global.builder.as_deref())?;
    let question = question(&arguments)?;
    let form = form(&arguments)?;
    if form != Form::Quiet {
        arguments
            .old
            .notes()
            .iter()
            .for_each(|note| console::note(note));
    }
    let (iidfile, metadata_file) = (arguments.iidfile.clone(), arguments.metadata_file.clone());
    if let Some(path) = &iidfile {
        // A file of an earlier build must not be taken for this one's.
        let _ = std::fs::remove_file(path);
    }
    let quiet = arguments.quiet || mode(&arguments) == Mode::Quiet;
    let mut request = request::request(arguments).await?;
    if request.wants_host_gateway() {
        request.host_gateway = builder.connect().await?.host_gateway().await?;
    }
    let mut prepared = request.prepare(builder.kind())?;
    prepared.options.source_policy = policy::of_environment()?;
    prepared.attachments.credentials = Some(Arc::new(credentials::load()?));
    let client = builder.connect().await?;
    if let Some(question) = question {
        let asked = call::ask(&client, prepared, &question, form, &builder.label);
        return Box::pin(asked).await;
    }
    let loading = outputs::open(&mut prepared).await?;
    let options = std::mem::take(&mut prepared.options);
    let attachments = std::mem::take(&mut prepared.attachments);
    let (sender, display) = Progress::start(form, builder.label.clone());
    let build = client.solve(options, attachments, move |status| {
        // The display may have failed; the build goes on.
        let _ = sender.send(status);
    });
    let solved = interruptible(Box::pin(build)).await;
    let trace = display.finish().await;
    let solved = solved.ok_or_else(Failure::interrupted)?;
    if matches!(form, Form::Plain | Form::Tty) {
        let warnings = progress::warnings(&trace, global.debug);
        if !warnings.is_empty() {
            console::note(warnings.trim_end_matches('\n'));
        }
    }
    let solved = match solved {
        Ok(solved) => solved,
        Err(error) => {
            let failure = builder.explain(error.into()).await;
            return Err(failure.while_doing("build failed"));
        }
    };
    let mut loaded = Vec::new();
    if let Some(loading) = loading {
        loaded = loading.finish().await?;
    }
    prepared.finish(&solved)?;
    if let Some(path) = iidfile {
        write_file(&path, report::image_id(&solved).as_bytes())?;
    }
    if let Some(path) = metadata_file {
        write_file(&path, &report::metadata(&solved, &trace)?)?;
    }
    if quiet {
        let id = report::image_id(&solved);
        if !id.is_empty() {
            console::print(id)?;
        }
    } else if form != Form::Raw && form != Form::Quiet {
        outputs::say_where(&prepared, &solved, &loaded, builder.is_own);
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs to the end, unless somebody interrupts it: then it is dropped, which cancels it.
pub(crate) async fn interruptible<T>(work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        outcome = work => Some(outcome),
        () = interrupted() => None,
    }
}

async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

fn write_file(path: &std::path::Path, bytes: &[u8]) -> Outcome<()> {
    std::fs::write(path, bytes)
        .map_err(|error| Failure::user(format!("write {}: {error}", path.display())))
}

fn mode(arguments: &BuildArguments) -> Mode {
    use clap::ValueEnum as _;
    let of_environment = || Mode::from_str(&std::env::var("BUILDKIT_PROGRESS").ok()?, true).ok();
    arguments
        .progress
        .or_else(of_environment)
        .unwrap_or(Mode::Auto)
}

fn form(arguments: &BuildArguments) -> Outcome<Form> {
    let mode = mode(arguments);
    if arguments.quiet {
        return match mode {
            Mode::Auto | Mode::Quiet | Mode::None => Ok(Form::Quiet),
            _ => Err(Failure::user(
                "--quiet and --progress can't be used together",
            )),
        };
    }
    mode.form().ok_or_else(|| {
        Failure::user("--progress=tty needs a terminal on standard error")
            .hint("--progress=auto takes plain where there is no terminal")
    })
}

/// What the frontend is asked, and whether as JSON.
pub(crate) struct Question {
    pub(crate) name: String,
    pub(crate) json: bool,
}

fn question(arguments: &BuildArguments) -> Outcome<Option<Question>> {
    let text = match (&arguments.call, arguments.check) {
        (_, true) => "check",
        (Some(text), _) => text,
        (None, false) => return Ok(None),
    };
    let mut fields = text.split(',');
    let name = match fields.next().unwrap_or_default() {
        "build" | "" => return Ok(None),
        "check" | "lint" => "lint",
        "outline" => "outline",
        "targets" => "targets",
        "subrequests.describe" | "describe" => "subrequests.describe",
        other => {
            return Err(Failure::user(format!("--call doesn't know {other:?}"))
                .hint("it knows check, outline and targets"));
        }
    };
    let mut json = false;
    for field in fields {
        match field {
            "format=json" => json = true,
            "format=text" => {}
            other => return Err(Failure::user(format!("--call doesn't know {other:?}"))),
        }
    }
    Ok(Some(Question {
        name: name.to_owned(),
        json,
    }))
}
