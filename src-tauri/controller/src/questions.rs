//! What the engine's frontend says of a Dockerfile before anything is built: its targets, what the chosen one takes,
//! and which checks it breaks.
//!
//! The form has read the text already ([`crate::folder`]); these answers are better, and need the engine. Where it
//! answers, they take the place of what was read.
//!
//! Invariants: nothing is built, and no secret is read: the questions are asked without any.

use std::collections::BTreeMap;

use base64::Engine as _;
use bytes::Bytes;
use kiln_client::{Client, Detail, Error};
use serde::Deserialize;

use crate::view::{BuildRequest, DockerfileAnswers, Finding, Need, OutlineArg, Target};
use crate::{Controller, Failure};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Place {
    ranges: Vec<Range>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Range {
    start: Position,
    end: Position,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Position {
    line: i32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Targets {
    targets: Vec<OneTarget>,
    sources: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct OneTarget {
    name: String,
    default: bool,
    description: String,
    base: String,
    platform: String,
    location: Place,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Outline {
    args: Vec<Named>,
    secrets: Vec<Named>,
    ssh: Vec<Named>,
}

/// An argument, a secret or an ssh agent.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Named {
    name: String,
    description: String,
    value: String,
    required: bool,
    location: Place,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Lint {
    /// Go writes `null` where there are none.
    warnings: Option<Vec<Broken>>,
    build_error: Option<Mistake>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Broken {
    rule_name: String,
    description: String,
    url: String,
    detail: String,
    location: Place,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Mistake {
    message: String,
    location: Place,
}

impl Place {
    fn lines(&self) -> Vec<(i32, i32)> {
        let ends = |range: &Range| (range.start.line, range.end.line.max(range.start.line));
        self.ranges.iter().map(ends).collect()
    }

    fn first(&self) -> u32 {
        let line = self.ranges.first().map_or(0, |range| range.start.line);
        u32::try_from(line).unwrap_or_default()
    }
}

type Answer = Result<BTreeMap<String, Bytes>, Error>;

impl Controller {
    /// Asks about the Dockerfile of a form, as the form is filled.
    pub async fn ask_dockerfile(
        &self,
        request: BuildRequest,
    ) -> Result<DockerfileAnswers, Failure> {
        let client = self.engine().await?;
        let wanted = BuildRequest {
            output: "cache".into(),
            secrets: Vec::new(),
            ssh: Vec::new(),
            cache_from: Vec::new(),
            cache_to: Vec::new(),
            ..request
        };
        let (targets, outline, lint) = tokio::join!(
            self.ask(&client, "targets", &wanted),
            self.ask(&client, "outline", &wanted),
            self.ask(&client, "lint", &wanted),
        );
        answers(targets?, outline?, lint?)
    }

    /// The outer failure is of this side, the inner one the frontend's.
    async fn ask(
        &self,
        client: &Client,
        question: &str,
        wanted: &BuildRequest,
    ) -> Result<Answer, Failure> {
        let mut prepared = self.prepare(wanted.clone())?;
        let options = std::mem::take(&mut prepared.options);
        let attachments = std::mem::take(&mut prepared.attachments);
        Ok(Box::pin(client.call_frontend(question, options, attachments, |_| {})).await)
    }
}

fn parsed<T: for<'de> Deserialize<'de> + Default>(answer: &BTreeMap<String, Bytes>) -> T {
    answer
        .get("result.json")
        .and_then(|json| serde_json::from_slice(json).ok())
        .unwrap_or_default()
}

/// One mistake in the file makes every question fail; it is told once, with its lines.
fn answers(targets: Answer, outline: Answer, lint: Answer) -> Result<DockerfileAnswers, Failure> {
    let mut view = DockerfileAnswers::default();
    let mut failed = None;
    let mut take = |answer: Answer| match answer {
        Ok(answer) => Some(answer),
        Err(error) => {
            failed.get_or_insert(error);
            None
        }
    };
    // What the check says of a mistake is better than another question's failure.
    if let Some(answer) = take(lint) {
        let lint: Lint = parsed(&answer);
        view.findings = lint
            .warnings
            .unwrap_or_default()
            .into_iter()
            .map(finding)
            .collect();
        view.findings
            .sort_by_key(|finding| finding.lines.first().copied());
        if let Some(mistake) = lint.build_error {
            view.error = mistake.message;
            view.error_lines = mistake.location.lines();
        }
    }
    if let Some(answer) = take(targets) {
        let found: Targets = parsed(&answer);
        view.targets = found.targets.into_iter().map(target).collect();
        let source = found.sources.first().map(|source| {
            base64::engine::general_purpose::STANDARD
                .decode(source)
                .unwrap_or_default()
        });
        view.source = String::from_utf8_lossy(&source.unwrap_or_default()).into_owned();
    }
    if let Some(answer) = take(outline) {
        let outline: Outline = parsed(&answer);
        view.args = outline.args.into_iter().map(argument).collect();
        view.secrets = outline.secrets.into_iter().map(need).collect();
        view.ssh = outline.ssh.into_iter().map(need).collect();
    }
    let Some(error) = failed.filter(|_| view.error.is_empty()) else {
        return Ok(view);
    };
    let source = error.details().into_iter().find_map(|detail| match detail {
        Detail::Source(source) => Some(source),
        _ => None,
    });
    let Some(source) = source else {
        return Err(error.into());
    };
    view.error_lines = crate::builds::ranges(&source.ranges);
    view.error = Failure::from(error).message;
    Ok(view)
}

fn target(wire: OneTarget) -> Target {
    Target {
        line: wire.location.first(),
        name: wire.name,
        default: wire.default,
        description: wire.description,
        base: wire.base,
        platform: wire.platform,
    }
}

fn argument(wire: Named) -> OutlineArg {
    OutlineArg {
        line: wire.location.first(),
        name: wire.name,
        value: wire.value,
        description: wire.description,
    }
}

fn need(wire: Named) -> Need {
    Need {
        line: wire.location.first(),
        name: wire.name,
        required: wire.required,
    }
}

fn finding(wire: Broken) -> Finding {
    Finding {
        lines: wire.location.lines(),
        rule: wire.rule_name,
        title: wire.description,
        detail: wire.detail,
        url: wire.url,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(json: &str) -> BTreeMap<String, Bytes> {
        let json = Bytes::copy_from_slice(json.as_bytes());
        BTreeMap::from([("result.json".to_owned(), json)])
    }

    fn refused(message: &str) -> Answer {
        Err(tonic::Status::new(tonic::Code::Unknown, message).into())
    }

    const TARGETS: &str = r#"{"targets":[{"name":"deps","base":"busybox","location":{"ranges":[{"start":{"line":2},"end":{"line":2}}]}},{"name":"app","default":true,"description":"what runs"}],"sources":["RlJPTSB4Cg=="]}"#;
    const OUTLINE: &str = r#"{"args":[{"name":"WORD","value":"x","description":"a word"}],"secrets":[{"name":"token","required":true}],"ssh":[{"name":"default"}]}"#;
    const LINT: &str = r#"{"warnings":[{"ruleName":"StageNameCasing","description":"d","detail":"e","location":{"ranges":[{"start":{"line":4},"end":{"line":5}}]}}],"sources":[]}"#;

    #[test]
    fn three_answers_fill_the_form() {
        let view = answers(Ok(parts(TARGETS)), Ok(parts(OUTLINE)), Ok(parts(LINT))).unwrap();
        let targets: Vec<(&str, bool, u32)> = view
            .targets
            .iter()
            .map(|t| (t.name.as_str(), t.default, t.line))
            .collect();
        assert_eq!(targets, [("deps", false, 2), ("app", true, 0)]);
        assert_eq!(view.source, "FROM x\n");
        assert_eq!(view.args[0].description, "a word");
        assert!(view.secrets[0].required && !view.ssh[0].required);
        assert_eq!(view.findings[0].lines, [(4, 5)]);
        assert_eq!(view.error, "");
    }

    #[test]
    fn a_mistake_is_told_once_with_its_lines() {
        let lint = r#"{"warnings":null,"sources":[],"buildError":{"message":"no stage x","location":{"ranges":[{"start":{"line":3},"end":{"line":3}}]}}}"#;
        let view = answers(Ok(parts(TARGETS)), refused("no stage x"), Ok(parts(lint))).unwrap();
        assert_eq!(
            (view.error.as_str(), view.error_lines),
            ("no stage x", vec![(3, 3)])
        );
        assert_eq!(view.targets.len(), 2);
    }

    #[test]
    fn an_engine_that_cannot_say_is_a_failure() {
        let failure = answers(refused("a"), refused("b"), refused("no such question")).unwrap_err();
        assert_eq!(failure.message, "no such question");
    }
}
