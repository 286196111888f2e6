//! Caches exchanged with a real BuildKit, both ways and in each form: what one daemon exported, the other one
//! must take for its own.
//!
//! Every Dockerfile is built on one daemon, which exports three caches of it at once; then a new daemon of the other
//! kind, which has done nothing before, builds each from one of them. A step that isn't CACHED is a difference of
//! keys, links, selectors or of the config's form.
//!
//! The real one is of the era before 0.26, whose hashes of wildcards and of filtered directories differ: those steps
//! are asserted to miss.

use anyhow::{Context as _, Result, ensure};
use kiln_e2e::OnBed;
use kiln_harness::{Bed, Buildx, Context, KilndOptions, Repository, Stage};
use tempfile::TempDir;

pub(crate) const ALL: &[(&str, OnBed)] = &[
    ("exchange/from_moby", from_moby),
    ("exchange/to_moby", to_moby),
];

/// A Dockerfile, what its context holds, and the steps that the other daemon doesn't find.
struct Case {
    name: &'static str,
    dockerfile: &'static str,
    /// Steps of whose keys the two daemons differ by era.
    misses: &'static [&'static str],
}

/// `NAME` stands for the case's name, `WEB` and `GIT` for URLs.
const CASES: &[Case] = &[
    case(
        "run",
        "FROM busybox\nRUN echo NAME && echo '<b>' > /x\nRUN cat /x | tr b c\nSHELL [\"/bin/ash\", \"-c\"]\nRUN echo ash\n",
    ),
    case(
        "env",
        "FROM busybox\nARG A=NAME\nENV B=${A}-b C=\"x y\"\nRUN echo $A $B $C > /x\nUSER 1000:1000\nRUN id -u\n",
    ),
    case(
        "copy",
        "FROM busybox\nCOPY a /a\nCOPY dir /dir\nCOPY dir/ /dir2/\nCOPY a dir/b /both/\nCOPY . /all\nRUN cat /a /dir/b\n",
    ),
    case(
        "copy-attributes",
        "FROM busybox\nCOPY --chown=1:2 a /a\nCOPY --chmod=750 a /b\nCOPY --chown=55 --chmod=600 dir /c\nRUN ls -l /a\n",
    ),
    case(
        "copy-link",
        "FROM busybox\nCOPY --link a /link/a\nCOPY --link --chown=3:4 dir /link/dir\nRUN ls /link\n",
    ),
    case(
        "copy-of-symlinks",
        "FROM busybox\nCOPY links /links\nCOPY links/file /file\nCOPY links/dir/b /b\nRUN ls /links\n",
    ),
    case(
        "stages",
        "FROM busybox AS build\nCOPY a /a\nRUN mkdir /out && cp /a /out/a && ln -s a /out/l\nFROM busybox\nCOPY --from=build /out/a /copied\n\
         COPY --from=build /out /out\nCOPY --from=busybox /bin/busybox /bb\nRUN cat /copied\n",
    ),
    case(
        "diamond",
        "FROM busybox AS base\nRUN echo NAME > /base\nFROM base AS left\nRUN echo left > /left\nFROM base AS right\nRUN echo right > /right\n\
         FROM scratch\nCOPY --from=left /left /\nCOPY --from=right /right /\n",
    ),
    case(
        "mounts",
        "FROM busybox AS tools\nRUN echo NAME > /tool\nFROM busybox\nRUN --mount=type=bind,target=/src cat /src/a > /1\n\
         RUN --mount=type=bind,source=dir,target=/src cat /src/b > /2\nRUN --mount=type=bind,from=tools,source=/tool,target=/t cat /t > /3\n\
         RUN --mount=type=bind,from=tools,target=/t,rw cat /t/tool && touch /t/new > /4\n\
         RUN --mount=type=cache,target=/c echo c > /c/x && cp /c/x /5\nRUN --mount=type=cache,id=other,sharing=locked,target=/c cp /c/x /6 || touch /6\n\
         RUN --mount=type=tmpfs,target=/t touch /t/x > /7\nRUN --mount=type=secret,id=none,target=/s touch /8\n",
    ),
    case(
        "workdir",
        "FROM busybox\nWORKDIR /w/NAME\nRUN pwd > x\nWORKDIR deeper\nCOPY a .\nRUN pwd && cat a > y\n",
    ),
    case(
        "add",
        "FROM busybox\nADD WEB /web/\nADD --chmod=640 WEB /web2\nADD archive.tar /tar/\nADD a /a\nRUN ls /web /tar\n",
    ),
    case(
        "git",
        "FROM busybox\nADD GIT /git\nADD GIT#main:sub /sub\nRUN ls /git\n",
    ),
    case(
        "heredocs",
        "FROM busybox\nRUN <<EOF\necho NAME\necho two && echo '<three>' > /x\nEOF\nCOPY <<one <<two /docs/\ntext & one\none\n<two>\ntwo\n\
         RUN <<PY sh\ncat /docs/one\nPY\n",
    ),
    Case {
        misses: &["COPY *.txt", "RUN echo wildcard", "COPY d*r/b"],
        ..case(
            "wildcard",
            "FROM busybox\nCOPY *.txt /t/\nRUN echo NAME\nCOPY d*r/b /b\n",
        )
    },
    case("ignored", "FROM busybox\nCOPY . /all\nRUN ls /all > /x\n"),
    case(
        "network",
        "FROM busybox\nRUN --network=none echo NAME > /1\nRUN --network=host echo host > /2\n",
    ),
];

const fn case(name: &'static str, dockerfile: &'static str) -> Case {
    Case {
        name,
        dockerfile,
        misses: &[],
    }
}

/// The cases' contexts, and where their caches are.
struct Lab<'a> {
    bed: &'a Bed,
    repository: Repository,
    directory: TempDir,
    contexts: Vec<Context>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Registry,
    Local,
    Inline,
}

impl<'a> Lab<'a> {
    fn new(bed: &'a Bed) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("exchange-").tempdir()?;
        let id = directory
            .path()
            .file_name()
            .and_then(|name| name.to_str())
            .context("a name")?
            .to_lowercase();
        let repository = Repository::create(&bed.web, &id)?;
        repository.commit(&[("README", "text"), ("sub/file", "in sub")])?;
        let web = bed.web.put(&format!("{id}/data.bin"), "from the web")?;
        let contexts = CASES.iter().map(|case| {
            let dockerfile = case
                .dockerfile
                .replace("NAME", case.name)
                .replace("WEB", &web)
                .replace("GIT", repository.url());
            let context = Context::new(&dockerfile)?;
            let text = |word: &str| format!("{word} of {}\n", case.name);
            context
                .put("a", text("a"))?
                .put("dir/b", text("b"))?
                .put("dir/deep/c", text("c"))?
                .put("one.txt", text("one"))?
                .put("two.txt", text("two"))?
                .put("links/dir/b", text("linked"))?
                .put("archive.tar", archive(&text("archived"))?)?
                .link("links/file", "dir/b")?
                .link("links/nowhere", "missing")?
                .mode("a", 0o640)?;
            if case.name == "ignored" {
                context.put(".dockerignore", "dir/deep\n*.txt\n!two.txt\n")?;
            }
            Ok(context)
        });
        Ok(Self {
            bed,
            contexts: contexts.collect::<Result<_>>()?,
            repository,
            directory,
        })
    }

    fn reference(&self, case: &Case, what: &str) -> Result<String> {
        let id = self.repository.url().rsplit('/').next().context("a URL")?;
        let id = id.trim_end_matches(".git");
        Ok(self
            .bed
            .registry
            .image(&format!("{id}/{}:{what}", case.name)))
    }

    fn local(&self, case: &Case) -> String {
        self.directory.path().join(case.name).display().to_string()
    }

    /// Builds every case and exports its cache in every form.
    fn export(&self, stage: &mut Stage<'_>) -> Result<()> {
        for (case, context) in CASES.iter().zip(&self.contexts) {
            let cache = self.reference(case, "cache")?;
            let image = self.reference(case, "image")?;
            let output = format!("type=image,name={image},push=true");
            let registry = format!("type=registry,ref={cache},mode=max");
            let local = format!("type=local,dest={},mode=max", self.local(case));
            let arguments = [
                "--output",
                &output,
                "--cache-to",
                &registry,
                "--cache-to",
                &local,
                "--cache-to",
                "type=inline",
            ];
            build(stage, context, &arguments)
                .with_context(|| format!("export of {}", case.name))?;
        }
        Ok(())
    }

    /// Builds every case from one form of its cache. Says of all of them what ran and shouldn't have.
    fn import(&self, stage: &mut Stage<'_>, form: Form) -> Result<()> {
        let mut differences = Vec::new();
        for (case, context) in CASES.iter().zip(&self.contexts) {
            let from = match form {
                Form::Registry => format!("type=registry,ref={}", self.reference(case, "cache")?),
                Form::Local => format!("type=local,src={}", self.local(case)),
                Form::Inline => format!("type=registry,ref={}", self.reference(case, "image")?),
            };
            let run = build(stage, context, &["--cache-from", &from])?;
            if let Err(error) = run.is_cached_but(case.misses) {
                differences.push(format!("{form:?} {}: {error:#}", case.name));
            }
        }
        ensure!(differences.is_empty(), "{}", differences.join("\n\n"));
        Ok(())
    }
}

fn build(stage: &Stage<'_>, context: &Context, arguments: &[&str]) -> Result<kiln_harness::Run> {
    // The network is part of a step's key, and the real daemon has no bridge here.
    let mut all = vec!["--network", "host", "--provenance", "false"];
    all.extend(arguments);
    stage.build(context, &all)?.succeeds()
}

fn archive(text: &str) -> Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(text.len() as u64);
    header.set_mode(0o644);
    builder.append_data(&mut header, "member", text.as_bytes())?;
    Ok(builder.into_inner()?)
}

const FORMS: [Form; 3] = [Form::Registry, Form::Local, Form::Inline];

fn from_moby(bed: &Bed) -> Result<()> {
    let lab = Lab::new(bed)?;
    bed.on_moby(Buildx::New, true, |stage| lab.export(stage))?;
    for form in FORMS {
        let options = KilndOptions::default();
        bed.on_kilnd(Buildx::New, options, |stage| lab.import(stage, form))?;
    }
    Ok(())
}

fn to_moby(bed: &Bed) -> Result<()> {
    let lab = Lab::new(bed)?;
    let options = KilndOptions::default();
    bed.on_kilnd(Buildx::New, options, |stage| lab.export(stage))?;
    for form in FORMS {
        bed.on_moby(Buildx::New, true, |stage| lab.import(stage, form))?;
    }
    Ok(())
}
