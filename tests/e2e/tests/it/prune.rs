//! Which records a prune takes: every filter and every bound, as commands and as clients of the API send them.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use futures::TryStreamExt as _;
use kiln_client::Client;
use kiln_e2e::Scenario;
use kiln_harness::{Buildx, Stage};
use kiln_proto::moby::buildkit::v1::{PruneRequest, UsageRecord};

use crate::client::{connect, run};
use crate::records::sample;

pub(crate) const ALL: &[Scenario] = &[
    Scenario::new("prune_commands", prune_commands).fresh_moby(),
    Scenario::new("prune_takes_what_filters_name", filters).fresh_moby(),
    Scenario::new("prune_keeps_to_its_bounds", bounds).fresh_moby(),
    Scenario::new("named_images_share_records", named_images_share_records).fresh_moby(),
];

const HOUR: i64 = 3_600_000_000_000;
/// More than any disk has.
const HUGE: i64 = 1 << 60;

async fn all(client: &Client) -> Result<Vec<UsageRecord>> {
    Ok(client.disk_usage(Vec::new()).await?)
}

fn ids<'a>(records: impl IntoIterator<Item = &'a UsageRecord>) -> BTreeSet<String> {
    records
        .into_iter()
        .map(|record| record.id.clone())
        .collect()
}

fn named<'a>(records: &'a [UsageRecord], words: &str) -> Result<&'a UsageRecord> {
    let found = records
        .iter()
        .find(|record| record.description.contains(words));
    found.with_context(|| format!("{words} in {records:?}"))
}

/// As people write it.
fn prune_commands(stage: &mut Stage<'_>) -> Result<()> {
    stage.build(&sample("commands")?, &[])?.succeeds()?;
    let before = run(async { all(&connect(stage).await?).await })?;
    let prune = |more: &[&str]| {
        let arguments = ["prune", "--force", "--all"].iter().chain(more);
        stage.client.buildx(arguments)?.succeeds()
    };
    let bounds: &[[&str; 2]] = match stage.client.version() {
        Buildx::Old => &[["--keep-storage", "10gb"]],
        Buildx::New => &[["--reserved-space", "10gb"], ["--max-used-space", "10gb"]],
    };
    let filters = [
        "until=1h",
        // No daemon knows this one: it names nothing.
        "since=1h",
        "id=nobody",
        "description=nobody",
        "type=frontend",
        "mutable=true",
    ];
    let filters = filters.map(|filter| ["--filter", filter]);
    for nothing in filters.iter().chain(bounds) {
        let ended = prune(nothing)?;
        ended
            .says(&["Total:\t0B"])
            .with_context(|| format!("{nothing:?}"))?;
    }
    let last = format!("id={}", named(&before, "last-commands")?.id);
    let mut left = ids(&before);
    let copy = match stage.client.version() {
        // It knows no other test than for equal values.
        Buildx::Old => format!("id={}", named(&before, "COPY f /f")?.id),
        Buildx::New => "description~=COPY".to_owned(),
    };
    for (filter, words) in [
        (&last, "last-commands"),
        (&copy, "COPY f /f"),
        (&"type=exec.cachemount".to_owned(), "cached mount"),
    ] {
        prune(&["--filter", filter])?;
        left.remove(&named(&before, words)?.id);
        let found = run(async { all(&connect(stage).await?).await })?;
        ensure!(ids(&found) == left, "{filter}: {found:?}");
    }
    prune(&["--filter", "until=1ms"])?;
    let found = run(async { all(&connect(stage).await?).await })?;
    ensure!(found.is_empty(), "{found:?}");
    Ok(())
}

/// What may go of those that are meant: nothing that something else is built on which stays.
fn may_go(records: &[UsageRecord], is_meant: impl Fn(&UsageRecord) -> bool) -> BTreeSet<String> {
    let mut go = ids(records
        .iter()
        .filter(|record| is_meant(record) && !record.in_use));
    loop {
        let stays = records.iter().filter(|record| !go.contains(&record.id));
        let held: BTreeSet<&String> = stays.flat_map(|record| &record.parents).collect();
        let before = go.len();
        go.retain(|id| !held.contains(id));
        if go.len() == before {
            return go;
        }
    }
}

async fn prune(client: &Client, request: PruneRequest) -> Result<BTreeSet<String>> {
    let request = PruneRequest {
        all: true,
        ..request
    };
    let gone: Vec<_> = client.prune(request).await?.try_collect().await?;
    Ok(ids(&gone))
}

fn filters(stage: &mut Stage<'_>) -> Result<()> {
    for word in ["named", "others"] {
        stage.build(&sample(word)?, &[])?.succeeds()?;
    }
    let is_kilnd = stage.engine.is_kilnd();
    run(async {
        let client = connect(stage).await?;
        let records = all(&client).await?;
        let last = named(&records, "last-named")?;
        let by_id = format!("id=={}", last.id);
        let by_parents = format!("parents=={}", named(&records, "last-others")?.parents[0]);
        let of_parent = by_parents.trim_start_matches("parents==").to_owned();
        type Test<'a> = &'a dyn Fn(&UsageRecord) -> bool;
        let table: [(&[&str], Test<'_>); 13] = [
            (&["inuse"], &|record| record.in_use),
            (&["shared"], &|record| record.shared),
            (&["since==1h"], &|_| false),
            (&["type==regular,inuse"], &|_| false),
            (&[&by_id], &|record| record.id == last.id),
            // The real one takes nothing, though its usage has them.
            (&[&by_parents], &|record| {
                is_kilnd && record.parents == [of_parent.clone()]
            }),
            (&["description~=last-others"], &|record| {
                record.description.contains("last-others")
            }),
            (&["type==source.local", "type==frontend"], &|record| {
                record.record_type == "source.local"
            }),
            (&["type==exec.cachemount,immutable"], &|_| false),
            (&["mutable"], &|record| record.mutable),
            (&["type!=regular"], &|record| {
                record.record_type != "regular"
            }),
            (&["immutable,private"], &|record| {
                !record.mutable && !record.shared
            }),
            (&["private"], &|record| !record.shared),
        ];
        for (filters, test) in table {
            let before = all(&client).await?;
            let wanted = may_go(&before, test);
            let request = PruneRequest {
                filter: filters.iter().map(ToString::to_string).collect(),
                ..PruneRequest::default()
            };
            let gone = prune(&client, request).await?;
            ensure!(gone == wanted, "{filters:?} took {gone:?} of {before:?}");
            let left = ids(&all(&client).await?);
            ensure!(left == &ids(&before) - &gone, "{filters:?} left {left:?}");
        }
        ensure!(all(&client).await?.is_empty());
        Ok(())
    })
}

fn bounds(stage: &mut Stage<'_>) -> Result<()> {
    stage.build(&sample("bounds-of-api")?, &[])?.succeeds()?;
    run(async {
        let client = connect(stage).await?;
        let before = ids(&all(&client).await?);
        let default = PruneRequest::default;
        for nothing in [
            PruneRequest {
                keep_duration: HOUR,
                ..default()
            },
            PruneRequest {
                keep_duration: HOUR,
                max_used_space: 1,
                ..default()
            },
            PruneRequest {
                max_used_space: HUGE,
                ..default()
            },
            PruneRequest {
                reserved_space: HUGE,
                max_used_space: 1,
                min_free_space: HUGE,
                ..default()
            },
        ] {
            let gone = prune(&client, nothing.clone()).await?;
            ensure!(gone.is_empty(), "{nothing:?} took {gone:?}");
        }
        let free = |bytes| PruneRequest {
            min_free_space: bytes,
            ..default()
        };
        // So much is free: what there is is its own bound, and one record goes on account of that.
        let mut gone = prune(&client, free(1)).await?;
        ensure!(gone.len() <= 1, "{gone:?}");
        gone.extend(prune(&client, free(HUGE)).await?);
        ensure!(gone == before, "{gone:?} of {before:?}");
        ensure!(all(&client).await?.is_empty());
        Ok(())
    })
}

/// What an image of the local store has too is shared: a plain prune leaves it alone.
fn named_images_share_records(stage: &mut Stage<'_>) -> Result<()> {
    let named_image = stage.bed.registry.image("shared/records:1");
    let output = format!("type=image,name={named_image}");
    let context = sample("shared")?;
    stage.build(&context, &["-o", &output])?.succeeds()?;
    stage.build(&sample("lonely")?, &[])?.succeeds()?;
    let shared = || {
        run(async {
            let client = connect(stage).await?;
            let found = client.disk_usage(vec!["shared".into()]).await?;
            let rest = client.disk_usage(vec!["private".into()]).await?;
            Ok((found, rest))
        })
    };
    let (found, rest) = shared()?;
    let last = named(&found, "last-shared")?;
    // With what it is built on, down to the base.
    ensure!(found.len() == 4 && last.shared, "{found:?}");
    named(&rest, "last-lonely")?;
    let prune = |more: &[&str]| {
        let arguments = ["prune", "--force"].iter().chain(more);
        stage.client.buildx(arguments)?.succeeds()
    };
    prune(&[])?;
    let (left, rest) = shared()?;
    ensure!(
        ids(&left) == ids(&found) && rest.is_empty(),
        "{left:?} {rest:?}"
    );
    prune(&["--all"])?;
    let (left, rest) = shared()?;
    ensure!(left.is_empty() && rest.is_empty(), "{left:?} {rest:?}");
    Ok(())
}
