//! `COPY`, `ADD`, ignore files: what comes into an image and how.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Result, ensure};
use kiln_e2e::Scenario;
use kiln_harness::{Archive, Context, Repository, Stage};

pub(crate) const ALL: &[Scenario] = &[
    Scenario::new("copy_keeps_what_it_copies", copy_keeps_what_it_copies),
    Scenario::new("copy_options", copy_options),
    Scenario::new(
        "copy_of_directories_and_wildcards",
        copy_of_directories_and_wildcards,
    ),
    Scenario::new(
        "copy_with_parents_and_without_some",
        copy_with_parents_and_without_some,
    )
    .kilnd_only("the frontend that is built into the real one doesn't know these flags"),
    Scenario::new("ignore_files_hide", ignore_files_hide),
    Scenario::new(
        "ignore_file_of_one_dockerfile",
        ignore_file_of_one_dockerfile,
    ),
    Scenario::new("add_unpacks_archives", add_unpacks_archives),
    Scenario::new("add_stays_inside_its_root", add_stays_inside_its_root),
    Scenario::new("add_from_http", add_from_http),
    Scenario::new("add_from_git", add_from_git),
    Scenario::new("context_from_git", context_from_git),
    Scenario::new("named_contexts", named_contexts),
    Scenario::new("deleted_files_stay_deleted", deleted_files_stay_deleted),
];

fn copy_keeps_what_it_copies(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new("FROM scratch\nCOPY . /\n")?;
    context
        .put("a/script", "#!/bin/sh\n")?
        .mode("a/script", 0o755)?
        .put("a/secret", "s")?
        .mode("a/secret", 0o600)?;
    context
        .link("a/link", "script")?
        .link("dangling", "../nowhere")?
        .put("ünïcode name", "u")?
        .put("empty", "")?;
    let archive = Archive::open(&stage.build_oci(&context, &["--provenance=false"])?)?;
    let layer = archive.image()?.top_layer()?;
    for (name, mode) in [
        ("a/script", 0o755),
        ("a/secret", 0o600),
        ("empty", 0o644),
        ("ünïcode name", 0o644),
    ] {
        let member = layer.member(name)?;
        ensure!(
            member.kind == '0' && member.mode & 0o7777 == mode && member.owner == (0, 0),
            "{name}: {member:?}"
        );
    }
    ensure!(
        layer.member("a/link")?.link == "script" && layer.member("dangling")?.link == "../nowhere"
    );
    Ok(())
}

fn copy_options(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new(
        "FROM busybox\nCOPY --chmod=640 --chown=5:6 f /one\nCOPY --link f /two/\nCOPY --chmod=u=rwx,go=rx f /three\nRUN \
         stat -c '%n %a %u:%g' /one /two/f /three\n",
    )?;
    context.put("f", "x")?;
    let run = stage.build(&context, &[])?.succeeds()?;
    let output = run.step_output("RUN stat")?;
    ensure!(
        output == "/one 640 5:6\n/two/f 644 0:0\n/three 755 0:0",
        "{output}"
    );
    Ok(())
}

fn copy_of_directories_and_wildcards(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new(
        "FROM busybox\nCOPY d /into/\nCOPY d/ /also\nCOPY *.txt /texts/\nCOPY d/?.go other /mixed/\nRUN cd / && find into \
         also texts mixed -type f | sort\n",
    )?;
    for name in [
        "d/a.go",
        "d/bb.go",
        "d/sub/deep/x",
        "one.txt",
        "two.txt",
        "other",
        "no.md",
    ] {
        context.put(name, name)?;
    }
    let run = stage.build(&context, &[])?.succeeds()?;
    let output = run.step_output("RUN cd /")?;
    let expected = "also/a.go\nalso/bb.go\nalso/sub/deep/x\ninto/a.go\ninto/bb.go\ninto/sub/deep/x\nmixed/a.go\nmixed/\
                    other\ntexts/one.txt\ntexts/two.txt";
    ensure!(output == expected, "{output}");
    Ok(())
}

fn copy_with_parents_and_without_some(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new(
        "FROM scratch\nCOPY --parents d/sub/deep /parents/\nCOPY --parents d/./sub/* /pivot/\nCOPY --exclude=*.md d \
         /excluded/\n",
    )?;
    for name in ["d/a.go", "d/b.md", "d/sub/deep/x"] {
        context.put(name, name)?;
    }
    let files = stage.build_files(&context, &[])?;
    for (name, there) in [
        ("parents/d/sub/deep/x", true),
        ("pivot/sub/deep/x", true),
        ("excluded/a.go", true),
        ("excluded/b.md", false),
    ] {
        ensure!(
            files.join(name).exists() == there,
            "{name} should be there: {there}"
        );
    }
    Ok(())
}

fn ignore_files_hide(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new("FROM scratch\nCOPY . /\n")?;
    context.put(
        ".dockerignore",
        "# comment\n*.log\n!keep.log\nnode_modules\n**/*.tmp\n/top\n\nDockerfile\n",
    )?;
    for name in [
        "a.log",
        "keep.log",
        "sub/b.log",
        "node_modules/x/y",
        "sub/c.tmp",
        "top",
        "sub/top",
        "plain",
    ] {
        context.put(name, "x")?;
    }
    let files = stage.build_files(&context, &[])?;
    for (name, there) in [
        ("a.log", false),
        ("keep.log", true),
        ("sub/b.log", true),
        ("node_modules", false),
        ("sub/c.tmp", false),
        ("top", false),
        ("sub/top", true),
        ("plain", true),
        ("Dockerfile", false),
        (".dockerignore", true),
    ] {
        ensure!(
            files.join(name).exists() == there,
            "{name} should be there: {there}"
        );
    }
    Ok(())
}

fn ignore_file_of_one_dockerfile(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new("FROM scratch\n")?;
    context
        .put("sub/My.Dockerfile", "FROM scratch\nCOPY . /\n")?
        .put("sub/My.Dockerfile.dockerignore", "hidden\n")?;
    context
        .put(".dockerignore", "shown\n")?
        .put("hidden", "x")?
        .put("shown", "x")?;
    let files = stage.build_files(&context, &["-f", "sub/My.Dockerfile"])?;
    ensure!(files.join("shown").exists() && !files.join("hidden").exists());
    Ok(())
}

fn add_unpacks_archives(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new(
        "FROM scratch\nADD files.tar /plain/\nADD files.tar.gz /gz/\nADD not.tar /raw/\n",
    )?;
    let mut builder = tar::Builder::new(Vec::new());
    for (name, mode) in [("dir/run", 0o755), ("text", 0o640)] {
        let mut header = tar::Header::new_ustar();
        header.set_size(5);
        header.set_mode(mode);
        header.set_uid(3);
        header.set_gid(4);
        builder.append_data(&mut header, name, &b"hello"[..])?;
    }
    let plain = builder.into_inner()?;
    context
        .put("files.tar", &plain)?
        .put("not.tar", "just text")?;
    let gzip = std::process::Command::new("gzip")
        .args(["-k", "files.tar"])
        .current_dir(context.path())
        .status()?;
    ensure!(gzip.success());
    let archive = Archive::open(&stage.build_oci(&context, &["--provenance=false"])?)?;
    let layers = archive.image()?.layers()?;
    for (layer, prefix) in layers.iter().zip(["plain", "gz"]) {
        let member = layer.member(&format!("{prefix}/dir/run"))?;
        ensure!(
            member.mode & 0o7777 == 0o755 && member.owner == (3, 4),
            "{member:?}"
        );
        ensure!(layer.text(&format!("{prefix}/text"))? == "hello");
    }
    ensure!(layers[2].text("raw/not.tar")? == "just text");
    Ok(())
}

fn add_stays_inside_its_root(stage: &mut Stage<'_>) -> Result<()> {
    let marker = format!("kiln-escape-{}", std::process::id());
    let mut builder = tar::Builder::new(Vec::new());
    let mut link = tar::Header::new_ustar();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    link.set_mode(0o777);
    builder.append_link(&mut link, "out", "/tmp")?;
    for name in [format!("out/{marker}"), format!("inside-{marker}")] {
        let mut header = tar::Header::new_ustar();
        header.set_size(1);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, &b"x"[..])?;
    }
    // The `tar` crate refuses to write `..`, as it should; here the name is patched in behind its back.
    let mut bytes = builder.into_inner()?;
    let name = format!("inside-{marker}");
    let at = bytes
        .windows(name.len())
        .position(|window| window == name.as_bytes())
        .unwrap_or_default();
    bytes[at..at + 7].copy_from_slice(b"../../x");
    let header = at..at + 512;
    bytes[at + 148..at + 156].copy_from_slice(b"        ");
    let sum: u32 = bytes[header].iter().map(|byte| u32::from(*byte)).sum();
    bytes[at + 148..at + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let context = Context::new("FROM busybox\nADD evil.tar /deep/er/\n")?;
    context.put("evil.tar", &bytes)?;
    // Refusing the archive and keeping it inside are both right; a file outside is not.
    stage.build(&context, &[])?;
    let outside = std::env::temp_dir().join(&marker);
    ensure!(!outside.exists(), "{} was written", outside.display());
    Ok(())
}

fn add_from_http(stage: &mut Stage<'_>) -> Result<()> {
    let unique = stage
        .directory()
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let path = format!("{unique}/data.bin");
    let url = stage.bed.web.put(&path, "from the web")?;
    let sum = "sha256:4a2e3bbfba30bd8eb4bac15c6ea9c5d2bcde0ef8e76b5cbb1fc3b1af19c6cb10";
    let context = Context::new(&format!(
        "FROM scratch\nADD {url} /dir/\nADD --chmod=700 {url} /named\n"
    ))?;
    let files = stage.build_files(&context, &[])?;
    ensure!(fs::read_to_string(files.join("dir/data.bin"))? == "from the web");
    let mode = fs::metadata(files.join("named"))?.permissions().mode() & 0o7777;
    ensure!(mode == 0o700, "{mode:o}");
    let wrong = Context::new(&format!("FROM scratch\nADD --checksum={sum} {url} /\n"))?;
    stage
        .build(&wrong, &[])?
        .fails()?
        .says(&["digest mismatch"])?;
    let missing = Context::new(&format!("FROM scratch\nADD {url}.none /\n"))?;
    stage.build(&missing, &[])?.fails()?.says(&["404"])?;
    // A second build asks whether the file changed and finds the step cached.
    stage
        .build(&context, &[])?
        .succeeds()?
        .is_cached("ADD --chmod=700")?;
    stage.bed.web.put(&path, "changed on the web")?;
    let files = stage.build_files(&context, &[])?;
    ensure!(fs::read_to_string(files.join("dir/data.bin"))? == "changed on the web");
    Ok(())
}

fn add_from_git(stage: &mut Stage<'_>) -> Result<()> {
    let name = stage
        .directory()
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let repository = Repository::create(&stage.bed.web, &name)?;
    repository.commit(&[("README", "first"), ("sub/file", "in sub")])?;
    repository.tag("v1")?;
    repository.commit(&[("README", "second")])?;
    let url = repository.url();
    let context = Context::new(&format!(
        "FROM scratch\nADD {url} /head/\nADD {url}#v1 /tag/\nADD {url}#main:sub /sub/\n"
    ))?;
    let files = stage.build_files(&context, &[])?;
    for (path, text) in [
        ("head/README", "second"),
        ("tag/README", "first"),
        ("sub/file", "in sub"),
    ] {
        ensure!(fs::read_to_string(files.join(path))? == text, "{path}");
    }
    ensure!(!files.join("head/.git").exists());
    Ok(())
}

fn context_from_git(stage: &mut Stage<'_>) -> Result<()> {
    let name = stage
        .directory()
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let repository = Repository::create(&stage.bed.web, &name)?;
    repository.commit(&[
        ("Dockerfile", "FROM scratch\nCOPY data /\n"),
        ("data", "of the repository"),
    ])?;
    let target = stage.path("from-git");
    let output = format!("type=local,dest={}", target.display());
    let url = repository.url();
    stage
        .client
        .buildx(["build", "--progress", "plain", "-o", &output, url])?
        .succeeds()?;
    ensure!(fs::read_to_string(target.join("data"))? == "of the repository");
    Ok(())
}

fn named_contexts(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new(
        "FROM base AS b\nFROM scratch\nCOPY --from=b /bin/busybox /bb\nCOPY --from=extra f /\n",
    )?;
    let extra = Context::new("")?;
    extra.put("f", "extra")?;
    let argument = format!("extra={}", extra.path().display());
    let files = stage.build_files(
        &context,
        &[
            "--build-context",
            &argument,
            "--build-context",
            "base=docker-image://busybox:latest",
        ],
    )?;
    ensure!(fs::read_to_string(files.join("f"))? == "extra" && files.join("bb").is_file());
    Ok(())
}

fn deleted_files_stay_deleted(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new(
        "FROM busybox\nRUN mkdir /d && echo 1 > /d/a && echo 2 > /d/b\nRUN rm /d/a\nRUN rm -r /d && mkdir /d && echo 3 > \
         /d/c\nRUN ls /d\n",
    )?;
    let run = stage.build(&context, &[])?.succeeds()?;
    ensure!(run.step_output("RUN ls /d")? == "c", "{}", run.transcript());
    let archive = Archive::open(&stage.build_oci(&context, &["--provenance=false"])?)?;
    let layers = archive.image()?.layers()?;
    ensure!(
        layers[2].names().contains(&"d/.wh.a"),
        "{:?}",
        layers[2].names()
    );
    ensure!(
        layers[3].names() == ["d", "d/.wh.b", "d/c"],
        "{:?}",
        layers[3].names()
    );
    Ok(())
}
