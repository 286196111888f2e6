//! Words, quotes and expansions.

use super::*;

struct Map(&'static [(&'static str, &'static str)]);

impl Variables for Map {
    fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| *value)
    }
}

const ENV: Map = Map(&[
    ("a", "1"),
    ("empty", ""),
    ("path", "usr/local/lib.tar.gz"),
    ("two", "x y"),
    ("FOO", "xxyy"),
]);

fn expand(word: &str) -> Result<String, ExpandError> {
    match Lexer::new('\\').expand(word, &ENV) {
        Ok(expanded) => Ok(expanded.text),
        Err(error) => Err(error.source),
    }
}

#[test]
fn all_forms_of_substitution() {
    for (word, want) in [
        ("$a", "1"),
        ("${a}b", "1b"),
        ("$ab", ""),
        ("$", "$"),
        ("a$", "a$"),
        ("$$", ""),
        (r"\$a", "$a"),
        ("'$a'", "$a"),
        (r#""$a""#, "1"),
        (r#""a\"b\x\$a""#, r#"a"b\x$a"#),
        ("${no:-d}", "d"),
        ("${empty:-d}", "d"),
        ("${empty-d}", ""),
        ("${no-d}", "d"),
        ("${a:+y}", "y"),
        ("${empty:+y}", ""),
        ("${empty+y}", "y"),
        ("${no+y}", ""),
        ("${a:?m}", "1"),
        ("${no:-${a}x}", "1x"),
        ("${no:-'q u'}", "q u"),
        ("${path#*/}", "local/lib.tar.gz"),
        ("${path##*/}", "lib.tar.gz"),
        ("${path%.*}", "usr/local/lib.tar"),
        ("${path%%.*}", "usr/local/lib"),
        ("${path/l/L}", "usr/Local/lib.tar.gz"),
        ("${path//l/L}", "usr/LocaL/Lib.tar.gz"),
        (r"${path//\//_}", "usr_local_lib.tar.gz"),
        ("${path/u?r/X}", "X/local/lib.tar.gz"),
        ("${FOO#xx}", "yy"),
        ("${FOO%y}", "xxy"),
        ("${FOO/+/p}", "xxyy"),
        (r"a\ b", "a b"),
        ("a\\", "a"),
        ("$1", ""),
        ("${1}x", "x"),
    ] {
        assert_eq!(expand(word), Ok(want.to_owned()), "{word}");
    }
}

#[test]
fn errors_are_named() {
    for (word, want) in [
        ("${", ExpandError::MissingBrace),
        ("${a", ExpandError::MissingBrace),
        ("${a:-x", ExpandError::MissingBrace),
        ("${a/x", ExpandError::MissingSlash),
        ("${}", ExpandError::BadSubstitution),
        ("${{a}}", ExpandError::BadSubstitution),
        ("${a=b}", ExpandError::Modifier("=".into())),
        ("${a:#b}", ExpandError::Modifier(":#".into())),
        ("'a", ExpandError::Quote("single")),
        ("\"a", ExpandError::Quote("double")),
        (
            "${no:?need it}",
            ExpandError::Required {
                name: "no".into(),
                message: "need it".into(),
            },
        ),
        (
            "${empty:?}",
            ExpandError::Required {
                name: "empty".into(),
                message: "is not allowed to be empty".into(),
            },
        ),
        (
            r"${a#\x}",
            ExpandError::Pattern {
                pattern: r"\x".into(),
                reason: r"invalid escape '\x'".into(),
            },
        ),
    ] {
        assert_eq!(expand(word), Err(want), "{word}");
    }
}

#[test]
fn words_are_split_after_the_expansion() {
    let words = |word: &str| Lexer::new('\\').expand(word, &ENV).unwrap().words;
    assert_eq!(words("a $two 'q r' b\\ c"), ["a", "x", "y", "q r", "b c"]);
    assert_eq!(words("80${no:-8} "), ["808"]);
    assert_eq!(words("x << EOF"), ["x", "<< EOF"]);
    assert!(words("  ").is_empty());
}

#[test]
fn what_is_unset_can_be_kept() {
    let lexer = Lexer {
        keep_unset: true,
        raw_quotes: true,
        ..Lexer::new('\\')
    };
    let text = |word| lexer.expand(word, &ENV).unwrap().text;
    assert_eq!(text(r#"$no ${no:-x} "$a" 'k'"#), r#"$no ${no:-x} "1" 'k'"#);
}

#[test]
fn matches_are_reported() {
    let expanded = Lexer::new('\\').expand("$a$no${no}", &ENV).unwrap();
    assert!(expanded.matched.contains("a"));
    assert_eq!(expanded.unmatched.into_iter().collect::<Vec<_>>(), ["no"]);
}

#[test]
fn hostile_words_are_bounded() {
    let nested = "${a:-".repeat(20_000);
    assert_eq!(expand(&nested), Err(ExpandError::TooDeep));
    struct Big(String);
    impl Variables for Big {
        fn get(&self, _: &str) -> Option<&str> {
            Some(&self.0)
        }
    }
    let big = Big("x".repeat(MAX_EXPANSION / 2));
    let error = Lexer::new('\\').expand("$a$a$a", &big).unwrap_err();
    assert_eq!(error.source, ExpandError::TooLarge(MAX_EXPANSION));
    let error = Lexer::new('\\').expand("${a//x/yyy}", &big).unwrap_err();
    assert_eq!(error.source, ExpandError::TooLarge(MAX_EXPANSION));
}
