//! What can be wrong with an instruction.

use crate::shell::WordError;
use crate::suggest::Suggestion;
use crate::text::quote;

/// Why a statement is no instruction.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the texts say what each is")]
pub enum InstructionError {
    #[error("unknown instruction: {keyword}{suggestion}")]
    Unknown {
        keyword: String,
        suggestion: Suggestion,
    },
    #[error("{0} requires at least one argument")]
    AtLeastOne(&'static str),
    #[error("{0} requires exactly one argument")]
    ExactlyOne(&'static str),
    #[error(
        "{0} requires at least two arguments, but only one was provided. Destination could not be determined"
    )]
    NoDestination(&'static str),
    #[error("{0} cannot accept a heredoc as a destination")]
    HeredocDestination(&'static str),
    #[error("{0} names can not be blank")]
    BlankName(&'static str),
    #[error("{0} requires the arguments to be in JSON form")]
    NotJson(&'static str),
    #[error("VOLUME specified can not be an empty string")]
    EmptyVolume,
    #[error("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")]
    OnbuildChain,
    #[error("{0} isn't allowed as an ONBUILD trigger")]
    OnbuildTrigger(String),
    #[error("FROM requires either one or three arguments")]
    From,
    #[error(
        "invalid name for build stage: {}, name can't start with a number or contain symbols",
        quote(.0)
    )]
    StageName(String),

    #[error("unknown flag: {flag}{suggestion}")]
    UnknownFlag {
        flag: String,
        suggestion: Suggestion,
    },
    #[error("duplicate flag specified: {0}")]
    DuplicateFlag(String),
    #[error("missing a value on flag: {0}")]
    FlagValue(String),
    #[error("expecting boolean value for flag {flag}, not: {value}")]
    FlagBool { flag: String, value: String },

    #[error("HEALTHCHECK NONE takes no arguments")]
    HealthNone,
    #[error("Missing command after HEALTHCHECK CMD")]
    HealthCommand,
    #[error("Unknown type {} in HEALTHCHECK (try CMD)", quote(.0))]
    HealthType(String),
    #[error("time: invalid duration {}", quote(.0))]
    Duration(String),
    #[error("Interval {} cannot be less than 1ms", quote(.0))]
    ShortInterval(&'static str),
    #[error("invalid value for --retries: {}", quote(.0))]
    Retries(String),
    #[error("--retries cannot be negative ({0})")]
    NegativeRetries(i64),

    #[error("invalid network mode {}", quote(.0))]
    Network(String),
    #[error("security {} is not valid", quote(.0))]
    Security(String),
    #[error("failed to parse csv {0}")]
    Csv(&'static str),
    #[error("invalid field '{0}' must be a key=value pair")]
    NotPair(String),
    #[error("'{0}' doesn't support variable expansion, define alias stage instead")]
    MountVariable(&'static str),
    #[error("unexpected key '{key}' in '{field}'{suggestion}")]
    UnknownKey {
        key: String,
        field: String,
        suggestion: Suggestion,
    },
    #[error("unexpected key '{key}' for mount type '{kind}'")]
    KeyForType { key: String, kind: &'static str },
    #[error("{key} not allowed for {} type mounts", quote(kind))]
    NotAllowedForType {
        key: &'static str,
        kind: &'static str,
    },
    #[error("unsupported mount type {}{suggestion}", quote(kind))]
    MountType {
        kind: String,
        suggestion: Suggestion,
    },
    #[error("unsupported sharing value {}{suggestion}", quote(sharing))]
    Sharing {
        sharing: String,
        suggestion: Suggestion,
    },
    #[error("invalid cache sharing set for {0} mount")]
    SharingForType(&'static str),
    #[error("invalid value for {key}: {value}")]
    KeyValue { key: String, value: String },
    #[error("invalid value {value} for {key}")]
    Number { key: &'static str, value: String },
    #[error("secret mount should not have a from")]
    SecretFrom,
    #[error("secret mount should not define sharing")]
    SecretSharing,
    #[error("invalid secret mount. one of source, target required")]
    SecretName,
    #[error("both source and id can't be set")]
    SecretSource,
    #[error("device name already set to {0}")]
    DeviceName(String),
    #[error(transparent)]
    Word(#[from] WordError),
}
