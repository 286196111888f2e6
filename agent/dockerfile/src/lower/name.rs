//! Names of steps in progress displays: `[stage 2/5] RUN make`.

use std::fmt::Write as _;

use kiln_oci::Platform;

use super::env::Env;
use super::stage::StageState;
use crate::shell::{Lexer, Variables};

/// The instruction in capitals, its variables expanded where that works.
pub(crate) fn shown(lexer: Lexer, code: &str, variables: &dyn Variables) -> String {
    let text = match lexer.expand(code, variables) {
        Ok(expanded) => expanded.text,
        Err(_) => code.to_owned(),
    };
    match text.split_once(' ') {
        Some((keyword, rest)) => format!("{} {rest}", keyword.to_uppercase()),
        None => text.to_uppercase(),
    }
}

/// `name` with the stage and the number of the step, which is counted.
pub(crate) fn numbered(
    stage: &mut StageState,
    name: &str,
    platform: Option<(&Platform, &Env)>,
) -> String {
    if stage.command_total == 0 {
        return name.to_owned();
    }
    let mut out = "[".to_owned();
    if let Some((platform, env)) = platform {
        out.push_str(&platform.format_all());
        out.push_str(&cross(platform, env));
        out.push(' ');
    }
    if !stage.shown_name.is_empty() {
        out.push_str(&stage.shown_name);
        out.push(' ');
    }
    stage.command_index += 1;
    let total = stage.command_total;
    let width = total.ilog10() as usize + 1;
    let index = stage.command_index;
    // Writing to a text can't fail.
    let _ = write!(out, "{index:width$}/{total}] ");
    if stage.in_trigger {
        out.push_str("ONBUILD ");
    }
    out.push_str(name);
    out
}

/// What a step on `base` builds for, if that is something else: `->arm64`.
fn cross(base: &Platform, env: &Env) -> String {
    let get = |key: &str| env.get(key).unwrap_or("").to_owned();
    let mut target = Platform::default();
    let mut set = false;
    for key in env.keys() {
        match key {
            "TARGETPLATFORM" => {
                if let Ok(platform) = get(key).parse() {
                    target = platform;
                    set = true;
                    break;
                }
            }
            "TARGETOS" => target.os = get(key),
            "TARGETARCH" => target.architecture = get(key),
            "TARGETVARIANT" => target.variant = get(key),
            _ => continue,
        }
        set = true;
    }
    if !set {
        return String::new();
    }
    if target.os.is_empty() {
        target.os.clone_from(&base.os);
    }
    if target.architecture.is_empty() {
        target.architecture.clone_from(&base.architecture);
    }
    let target = target.normalized();
    if target.os != base.os {
        return format!("->{}", target.format_all());
    }
    if target.architecture == base.architecture {
        return String::new();
    }
    if target.variant.is_empty() {
        format!("->{}", target.architecture)
    } else {
        format!("->{}/{}", target.architecture, target.variant)
    }
}
