//! Instructions that change the image's config: most of them make no layer.

use kiln_llb::FileChain;
use kiln_oci::{Healthcheck, HistoryEntry};
use kiln_proto::pb;
use kiln_proto::pb::file_action::Action;

use super::error::{Problem, Result};
use super::outline::ArgInfo;
use super::stage::StageState;
use super::{Converter, checks, env, expose, name, os_path, signal};
use crate::instruction::{self, ArgDefinition, Command, CommandLine, Instruction};
use crate::lint::{Linter, Rule};
use crate::parse::Lines;
use crate::shell::Variables;
use crate::text::{format_duration, quote, quote_list};

impl Converter<'_> {
    /// Adds an entry to the image's history.
    pub(super) fn commit(&self, stage: &mut StageState, text: String, layer: bool) {
        stage.image.history.push(HistoryEntry {
            created_by: text,
            comment: "buildkit.dockerfile.v0".to_owned(),
            empty_layer: !layer,
            created: self.epoch,
            ..HistoryEntry::default()
        });
    }

    pub(super) fn configure(
        &mut self,
        stage: &mut StageState,
        command: &Command,
        instruction: Instruction,
        lint: &Linter,
    ) -> Result<()> {
        let lines = command.lines;
        let keyword = &command.keyword;
        let config = &mut stage.image.config;
        let text = match instruction {
            Instruction::Env(list) => {
                let mut text = "ENV".to_owned();
                for pair in list {
                    if pair.legacy {
                        checks::legacy_pair(keyword, lines, lint);
                    }
                    checks::secret_name("ENV", &pair.key, lines, lint);
                    text.push(' ');
                    text.push_str(&pair.joined());
                    stage.state.env.set(&pair.key, &pair.value);
                    env::set_in(&mut config.env, &pair.key, &pair.value);
                }
                text
            }
            Instruction::Label(list) => {
                let mut text = "LABEL".to_owned();
                for pair in list {
                    if pair.legacy {
                        checks::legacy_pair(keyword, lines, lint);
                    }
                    text.push(' ');
                    text.push_str(&pair.joined());
                    config.labels.insert(pair.key, pair.value);
                }
                text
            }
            Instruction::Maintainer(author) => {
                let text = format!("MAINTAINER {author}");
                stage.image.author = author;
                text
            }
            Instruction::Onbuild(trigger) => {
                config.on_build.push(trigger);
                return Ok(());
            }
            Instruction::Cmd(line) => {
                checks::used_once(&mut stage.cmd, keyword, lines, lint);
                let args = command_args(stage, &line, keyword, lines, lint);
                let text = format!("CMD {}", quote_list(&args));
                stage.image.config.cmd = args;
                stage.image.config.args_escaped = true;
                text
            }
            Instruction::Entrypoint(line) => {
                checks::used_once(&mut stage.entrypoint, keyword, lines, lint);
                let args = command_args(stage, &line, keyword, lines, lint);
                let text = format!("ENTRYPOINT {}", quote_list(&args));
                stage.image.config.entrypoint = args;
                if stage.cmd.is_none() {
                    stage.image.config.cmd.clear();
                }
                text
            }
            Instruction::Healthcheck(check) => {
                checks::used_once(&mut stage.healthcheck, keyword, lines, lint);
                let text = format!("HEALTHCHECK {}", health_text(&check));
                stage.image.config.healthcheck = Some(Healthcheck {
                    test: check.test,
                    interval: check.interval,
                    timeout: check.timeout,
                    start_period: check.start_period,
                    start_interval: check.start_interval,
                    retries: check.retries,
                });
                text
            }
            Instruction::User(user) => {
                let text = format!("USER {user}");
                stage.state.user.clone_from(&user);
                config.user = user;
                text
            }
            Instruction::Volume(volumes) => {
                if volumes.iter().any(String::is_empty) {
                    return Err(Problem::EmptyVolume.into());
                }
                let text = format!("VOLUME [{}]", volumes.join(" "));
                config.volumes.extend(volumes);
                text
            }
            Instruction::StopSignal(name) => {
                if !signal::is_signal(&name) {
                    return Err(Problem::Signal(name).into());
                }
                let text = format!("STOPSIGNAL {name}");
                config.stop_signal = name;
                text
            }
            Instruction::Shell(shell) => {
                let text = format!("SHELL [{}]", shell.join(" "));
                config.shell = shell;
                text
            }
            // These are lowered elsewhere.
            Instruction::Add(_)
            | Instruction::Arg(_)
            | Instruction::Copy(_)
            | Instruction::Expose(_)
            | Instruction::Run(_)
            | Instruction::Workdir(_) => return Ok(()),
        };
        self.commit(stage, text, false);
        Ok(())
    }

    pub(super) fn expose(
        &mut self,
        stage: &mut StageState,
        words: &[String],
        lines: Lines,
        lint: &Linter,
    ) -> Result<()> {
        let mut ports = Vec::new();
        for word in words {
            for text in self.lexer.expand(word, &stage.state.env)?.words {
                ports.extend(expose::ports(&text, lines, lint)?);
            }
        }
        let text = format!("EXPOSE [{}]", ports.join(" "));
        stage.image.config.exposed_ports.extend(ports);
        self.commit(stage, text, false);
        Ok(())
    }

    pub(super) fn arg(
        &mut self,
        stage: &mut StageState,
        args: &[ArgDefinition],
        lines: Lines,
        lint: &Linter,
    ) -> Result<()> {
        let mut texts = Vec::with_capacity(args.len());
        for arg in args {
            let key = &arg.key;
            checks::secret_name("ARG", key, lines, lint);
            let mut inherited = false;
            let value = match (self.given.get(key), &arg.value) {
                (Some(value), _) => Some(value.clone()),
                (None, Some(default)) => {
                    let env = &stage.state.env;
                    let expanded = self.lexer.expand(default, env)?;
                    let args = &stage.build_args;
                    checks::undefined(&expanded.unmatched, args, env, lines, lint);
                    Some(expanded.text)
                }
                (None, None) => {
                    let value = self.global.get(key).map(str::to_owned);
                    inherited = value.is_some();
                    value
                }
            };
            if let Some(value) = &value
                && !checks::NOT_IN_ENV.contains(&key.as_str())
            {
                stage.state.env.set(key, value);
            }
            if !inherited {
                let info = ArgInfo {
                    value: value.clone().unwrap_or_default(),
                    description: arg.description.clone(),
                    lines,
                    ..ArgInfo::default()
                };
                stage.outline.args.insert(key.clone(), info);
            }
            stage.outline.used_args.insert(key.clone());
            texts.push(match &value {
                Some(value) => format!("{key}={value}"),
                None => key.clone(),
            });
            stage.build_args.push(ArgDefinition {
                value,
                ..arg.clone()
            });
        }
        self.commit(stage, format!("ARG {}", texts.join(" ")), false);
        Ok(())
    }

    pub(super) fn workdir(
        &mut self,
        stage: &mut StageState,
        command: &Command,
        path: &str,
        lint: &Linter,
    ) -> Result<()> {
        if !stage.workdir_set && !os_path::is_absolute(path, stage.os()) {
            let message = format!(
                "Relative workdir {} can have unexpected results if the base image changes",
                quote(path)
            );
            lint.report(Rule::WorkdirRelativePath, command.lines, message);
        }
        stage.workdir_set = true;
        let dir = set_workdir(stage, path)?;
        let makes_layer = dir != "/";
        if makes_layer {
            let platform = stage
                .platform
                .clone()
                .unwrap_or_else(|| self.platforms.target.clone());
            let env = stage.state.env.clone();
            let shown = name::shown(self.lexer, &command.code, &env);
            let title = name::numbered(stage, &shown, self.prefix(&platform, &env));
            let options = self.vertex_options(title, command.lines);
            let user = stage.image.config.user.clone();
            let timestamp = self.epoch.map_or(-1, nanos);
            let path = crate::text::clean(&dir);
            let base = stage.state.out;
            stage.state.out = Some(self.plan.make(move |made| {
                let mut chain = FileChain::new(made.edge(base));
                let owner = (!user.is_empty()).then(|| kiln_llb::owner(&user, chain.owner_input()));
                chain.act(Action::Mkdir(pb::FileActionMkDir {
                    path,
                    mode: 0o755,
                    make_parents: true,
                    owner,
                    timestamp,
                }));
                Some(chain.build(options))
            }));
        }
        self.commit(stage, format!("WORKDIR {dir}"), makes_layer);
        Ok(())
    }
}

/// Sets the working directory without making it; returns it with slashes.
pub(super) fn set_workdir(stage: &mut StageState, path: &str) -> Result<String> {
    let os = stage.os().to_owned();
    let dir = os_path::workdir(&stage.image.config.working_dir, path, &os)?;
    let slashed = os_path::to_slash(&dir, &os);
    stage.image.config.working_dir = dir;
    stage.state.dir.clone_from(&slashed);
    Ok(slashed)
}

/// Nanoseconds since 1970.
pub(super) fn nanos(time: kiln_oci::Timestamp) -> i64 {
    let since = time.to_system_time().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
    })
}

/// The command with the image's shell, where it is for one.
pub(super) fn with_shell(stage: &StageState, args: &[String]) -> Vec<String> {
    let config = &stage.image.config;
    let mut all = if !config.shell.is_empty() {
        config.shell.clone()
    } else if stage.image.platform.os == "windows" {
        vec!["cmd".to_owned(), "/S".to_owned(), "/C".to_owned()]
    } else {
        vec!["/bin/sh".to_owned(), "-c".to_owned()]
    };
    all.push(args.join(" "));
    all
}

fn command_args(
    stage: &StageState,
    line: &CommandLine,
    keyword: &str,
    lines: Lines,
    lint: &Linter,
) -> Vec<String> {
    if !line.shell {
        return line.args.clone();
    }
    if stage.image.config.shell.is_empty() {
        checks::shell_form(keyword, lines, lint);
    }
    with_shell(stage, &line.args)
}

/// As Go prints the struct.
fn health_text(check: &instruction::Healthcheck) -> String {
    format!(
        "{{Test:[{}] Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
        check.test.join(" "),
        format_duration(check.interval),
        format_duration(check.timeout),
        format_duration(check.start_period),
        format_duration(check.start_interval),
        check.retries
    )
}
