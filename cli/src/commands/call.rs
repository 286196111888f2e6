//! `kiln build --call`: what the frontend says of a Dockerfile, without building it.

use std::process::ExitCode;

use kiln_client::Client;
use kiln_client::build::Prepared;
use serde_json::Value;

use super::build::{Question, interruptible};
use crate::console;
use crate::failure::{Failure, Kind, Outcome};
use crate::progress::{Form, Progress};

pub(crate) async fn ask(
    client: &Client,
    mut prepared: Prepared,
    question: &Question,
    form: Form,
    label: &str,
) -> Outcome {
    let options = std::mem::take(&mut prepared.options);
    let attachments = std::mem::take(&mut prepared.attachments);
    let (sender, display) = Progress::start(form, label.to_owned());
    let call = client.call_frontend(&question.name, options, attachments, move |status| {
        let _ = sender.send(status);
    });
    let answer = interruptible(Box::pin(call)).await;
    display.finish().await;
    let answer = answer.ok_or_else(Failure::interrupted)?;
    let answer = answer.map_err(|error| Failure::from(error).while_doing("build failed"))?;
    let text = |key: &str| {
        let bytes = answer.get(key).map(|bytes| String::from_utf8_lossy(bytes));
        bytes.unwrap_or_default().into_owned()
    };
    let json: Value = serde_json::from_str(&text("result.json")).unwrap_or_default();
    if question.json {
        console::print(&text("result.json"))?;
    } else {
        if question.name == "lint" {
            let warnings = json["warnings"].as_array().map_or(0, Vec::len);
            console::print(&match warnings {
                0 if json["buildError"].is_null() => {
                    "Check complete, no warnings found.".to_owned()
                }
                0 => "Check ended with an error.".to_owned(),
                1 => "Check complete, 1 warning has been found!".to_owned(),
                count => format!("Check complete, {count} warnings have been found!"),
            })?;
        }
        console::write(text("result.txt").as_bytes())?;
    }
    if let Some(message) = json["buildError"]["message"].as_str() {
        return Err(Failure::new(Kind::Build, message));
    }
    let status: u8 = text("result.statuscode").trim().parse().unwrap_or(0);
    Ok(ExitCode::from(status))
}
