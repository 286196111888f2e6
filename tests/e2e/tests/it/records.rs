//! Records of the cache: filters, prunes, plans, pins, and what is inside of cache mounts.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _};
use kiln_client::Client;
use kiln_client::agent::execute_response::Event;
use kiln_client::agent::{Policy, import_mount_start::Mount};
use kiln_e2e::Scenario;
use kiln_harness::{Buildx, Context, Stage};
use kiln_proto::moby::buildkit::v1::{PruneRequest, UsageRecord};

use crate::client::{connect, run};

pub(crate) const ALL: &[Scenario] = &[
    Scenario::new("usage_filters", usage_filters).fresh_moby(),
    Scenario::new("prune_filters_and_bounds", prune_filters_and_bounds).fresh_moby(),
    Scenario::new("prune_spares_what_is_used", prune_spares_what_is_used).fresh_moby(),
    Scenario::new("prune_empties_the_database", prune_empties_the_database)
        .kilnd_only("it looks into kilnd's database"),
    Scenario::new("plans_pins_and_policies", plans_pins_and_policies)
        .kilnd_only("it is Kiln's own API"),
    Scenario::new("cache_mounts_from_outside", cache_mounts_from_outside)
        .kilnd_only("it is Kiln's own API"),
];

/// Steps, a copy and a cache mount.
pub(crate) fn sample(word: &str) -> Result<Context> {
    let context = Context::new(&format!(
        "FROM busybox\nRUN --mount=type=cache,id=m-{word},target=/m echo {word} > /m/f && head -c 300000 /dev/zero > /m/z\n\
         COPY f /f\nRUN head -c 2000000 /dev/urandom > /r && echo last-{word}\n"
    ))?;
    context.put("f", word)?;
    Ok(context)
}

fn ids(records: &[UsageRecord]) -> BTreeSet<&str> {
    records.iter().map(|record| record.id.as_str()).collect()
}

fn usage_filters(stage: &mut Stage<'_>) -> Result<()> {
    let context = sample("filters")?;
    stage.build(&context, &[])?.succeeds()?;
    run(async {
        let client = connect(stage).await?;
        let all = client.disk_usage(Vec::new()).await?;
        let last = all
            .iter()
            .find(|record| record.description.contains("last-filters"))
            .context("the last step's record")?;
        ensure!(
            last.size >= 2_000_000 && last.usage_count >= 1 && last.parents.len() == 1,
            "{last:?}"
        );
        // Whether it is still mutable differs: the real one decides that late.
        ensure!(
            last.last_used_at.is_some() && !last.in_use && !last.shared,
            "{last:?}"
        );
        let parent = &last.parents[0];
        ensure!(all.iter().any(|record| record.id == *parent), "{all:?}");
        let by_id = format!("id~=^{}", &last.id[..10]);
        let not_id = format!("id!={}", last.id);
        let by_parent = format!("parents=={parent}");
        type Test<'a> = &'a dyn Fn(&UsageRecord) -> bool;
        let table: [(&[&str], Test<'_>); 15] = [
            (&[], &|_| true),
            (&["mutable"], &|record| record.mutable),
            (&["immutable"], &|record| !record.mutable),
            (&["inuse"], &|record| record.in_use),
            (&["shared"], &|record| record.shared),
            (&["private"], &|record| !record.shared),
            (&["type==exec.cachemount"], &|record| {
                record.record_type == "exec.cachemount"
            }),
            (&["type!=regular"], &|record| {
                record.record_type != "regular"
            }),
            (&["type==source.local,mutable"], &|record| {
                record.record_type == "source.local" && record.mutable
            }),
            (
                &["type==source.local", "type==exec.cachemount"],
                &|record| record.record_type != "regular",
            ),
            (&["description~=last-filters"], &|record| {
                record.description.contains("last-filters")
            }),
            (&[&by_id], &|record| record.id == last.id),
            (&[&not_id], &|record| record.id != last.id),
            (&[&by_parent], &|record| record.parents == [parent.clone()]),
            (&["mutable==true"], &|_| false),
        ];
        for (filters, test) in table {
            let filters: Vec<String> = filters.iter().map(ToString::to_string).collect();
            let found = client.disk_usage(filters.clone()).await?;
            let wanted: BTreeSet<&str> = all
                .iter()
                .filter(|record| test(record))
                .map(|record| record.id.as_str())
                .collect();
            ensure!(ids(&found) == wanted, "{filters:?}: {found:?}");
        }
        for broken in ["type=regular", "a,,b", "id~=["] {
            // The real one takes a broken pattern for one that matches nothing, and tells its log.
            if broken.contains('[') && !stage.engine.is_kilnd() {
                continue;
            }
            let refused = client.disk_usage(vec![broken.to_owned()]).await;
            ensure!(refused.is_err(), "{broken}");
        }
        Ok(())
    })
}

async fn prune(client: &Client, request: PruneRequest) -> Result<Vec<UsageRecord>> {
    Ok(client.prune(request).await?.try_collect().await?)
}

fn prune_filters_and_bounds(stage: &mut Stage<'_>) -> Result<()> {
    let context = sample("bounds")?;
    stage.build(&context, &[])?.succeeds()?;
    // As people write it.
    let client = &stage.client;
    let reserved = match client.version() {
        Buildx::Old => "--keep-storage",
        Buildx::New => "--reserved-space",
    };
    for arguments in [
        &["prune", "--force", "--filter", "until=24h"][..],
        &["prune", "--force", "--filter", "type=source.git.checkout"],
        &["prune", "--force", reserved, "10gb"],
    ] {
        let run = client.buildx(arguments)?.succeeds()?;
        run.says(&["Total:\t0B"])?;
    }
    let mount = [
        "prune",
        "--force",
        "--verbose",
        "--filter",
        "type=exec.cachemount",
    ];
    let pruned = client.buildx(mount)?.succeeds()?;
    pruned
        .says(&["cached mount /m"])?
        .never_says(&["last-bounds", "local source"])?;
    run(async {
        let client = connect(stage).await?;
        let all = client.disk_usage(Vec::new()).await?;
        let total: i64 = all.iter().map(|record| record.size).sum();
        // The least that gets below the bound, and nothing that something else is built on.
        let request = PruneRequest {
            all: true,
            max_used_space: total - 1,
            ..PruneRequest::default()
        };
        let gone = prune(&client, request).await?;
        ensure!(
            gone.len() == 1 || gone.iter().map(|one| one.size).sum::<i64>() < 10_000,
            "{gone:?}"
        );
        let left = client.disk_usage(Vec::new()).await?;
        for record in &left {
            let is_there = |parent: &String| left.iter().any(|other| other.id == *parent);
            ensure!(record.parents.iter().all(is_there), "{record:?}");
        }
        let request = PruneRequest {
            all: true,
            reserved_space: 1,
            max_used_space: 1,
            ..PruneRequest::default()
        };
        prune(&client, request).await?;
        let bytes: i64 = client
            .disk_usage(Vec::new())
            .await?
            .iter()
            .map(|one| one.size)
            .sum();
        ensure!(bytes <= 1, "{bytes}");
        prune(
            &client,
            PruneRequest {
                all: true,
                ..PruneRequest::default()
            },
        )
        .await?;
        ensure!(client.disk_usage(Vec::new()).await?.is_empty());
        Ok(())
    })
}

fn prune_spares_what_is_used(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new(
        "FROM busybox\nRUN echo spared > /spared\n\
         RUN --mount=type=cache,id=spared,target=/m echo in-use > /m/f; echo wai''ting; sleep 4; cat /spared /m/f\n",
    )?;
    let mut build = stage.start_build(&context, &[])?;
    build.wait_for("waiting", Duration::from_secs(60))?;
    let mut seen = 0;
    run(async {
        let client = connect(stage).await?;
        let used = client.disk_usage(vec!["inuse".into()]).await?;
        seen = used.len();
        ensure!(
            used.iter()
                .any(|record| record.record_type == "exec.cachemount"),
            "{used:?}"
        );
        let gone = prune(
            &client,
            PruneRequest {
                all: true,
                ..PruneRequest::default()
            },
        )
        .await?;
        ensure!(ids(&gone).is_disjoint(&ids(&used)), "{gone:?}");
        Ok(())
    })?;
    ensure!(seen >= 3, "{seen}");
    build.wait()?.succeeds()?.says(&["spared", "in-use"])?;
    Ok(())
}

fn rows(stage: &mut Stage<'_>, table: &str) -> Result<i64> {
    let path = stage.kilnd()?.root().join("state.db");
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let database = rusqlite::Connection::open_with_flags(path, flags)?;
    Ok(
        database.query_row(&format!("SELECT count(*) FROM {table}"), (), |row| {
            row.get(0)
        })?,
    )
}

fn prune_empties_the_database(stage: &mut Stage<'_>) -> Result<()> {
    const TABLES: [&str; 6] = [
        "cache_records",
        "cache_layers",
        "cache_values",
        "cache_results",
        "cache_links",
        "cache_keys",
    ];
    for word in ["shrink-1", "shrink-2"] {
        stage.build(&sample(word)?, &[])?.succeeds()?;
    }
    for table in TABLES {
        ensure!(rows(stage, table)? > 0, "{table}");
    }
    stage
        .client
        .buildx(["prune", "--force", "--all"])?
        .succeeds()?;
    for table in TABLES {
        kiln_harness::within(&format!("{table} is empty"), Duration::from_secs(5), || {
            rows(stage, table).is_ok_and(|count| count == 0)
        })?;
    }
    Ok(())
}

fn plans_pins_and_policies(stage: &mut Stage<'_>) -> Result<()> {
    let context = sample("plans")?;
    stage.build(&context, &[])?.succeeds()?;
    let project = context
        .path()
        .file_name()
        .context("a name")?
        .to_string_lossy()
        .into_owned();
    run(async {
        let client = connect(stage).await?;
        let cache = client.cache();
        let usage = cache.usage().await?;
        let of_project: Vec<_> = usage
            .groups
            .iter()
            .filter(|one| one.project == project)
            .collect();
        ensure!(
            of_project
                .iter()
                .any(|one| one.record_type == "regular" && one.bytes > 2_000_000),
            "{usage:?}"
        );
        ensure!(
            of_project.iter().any(|one| one.rebuild_milliseconds > 0),
            "{usage:?}"
        );
        ensure!(usage.total == usage.reclaimable + usage.in_use && usage.total > 0);

        let records = cache.records().await?;
        ensure!(records.len() == client.disk_usage(Vec::new()).await?.len());
        ensure!(
            records.iter().any(|one| {
                one.project == project
                    && one.step.contains("] RUN ")
                    && !one.build_ref.is_empty()
                    && one.rebuild_milliseconds > 0
            }),
            "{records:?}"
        );

        let in_force = cache.policies().await?;
        ensure!(
            in_force.default && in_force.policies.len() == 4,
            "{in_force:?}"
        );
        ensure!(cache.plan(Vec::new(), false).await?.removals.is_empty());

        let everything = Policy {
            all: true,
            ..Policy::default()
        };
        let before = client.disk_usage(Vec::new()).await?;
        let plan = cache.plan(vec![everything.clone()], true).await?;
        ensure!(plan.removals.len() == before.len(), "{plan:?}");
        ensure!(
            ids(&client.disk_usage(Vec::new()).await?) == ids(&before),
            "a plan touches nothing"
        );
        let last = plan
            .removals
            .iter()
            .find(|one| one.description.contains("last-plans"));
        let last = last.context("the last step")?;
        ensure!(
            last.rebuild_milliseconds > 0 && !last.reason.is_empty(),
            "{last:?}"
        );
        cache.pin(&last.id, true).await?;
        let events: Vec<_> = cache.execute(&plan.id).await?.try_collect().await?;
        let events: Vec<Event> = events.into_iter().filter_map(|event| event.event).collect();
        let kept: Vec<_> = events
            .iter()
            .filter_map(|event| match event {
                Event::Skipped(skipped) => Some(skipped.reason.as_str()),
                _ => None,
            })
            .collect();
        // The record itself, and the two that it is built on.
        ensure!(
            kept.contains(&"it is pinned") && kept.len() >= 3,
            "{kept:?}"
        );
        let Some(Event::Finished(done)) = events.last() else {
            anyhow::bail!("no end: {events:?}")
        };
        ensure!(
            done.trigger == "plan" && done.records > 0 && done.bytes > 0,
            "{done:?}"
        );
        let again = cache.execute(&plan.id).await?.collect::<Vec<_>>().await;
        ensure!(again.len() == 1 && again[0].is_err(), "{again:?}");

        prune(
            &client,
            PruneRequest {
                all: true,
                ..PruneRequest::default()
            },
        )
        .await?;
        let left = client.disk_usage(Vec::new()).await?;
        ensure!(
            left.iter().any(|record| record.id == last.id),
            "a pin holds: {left:?}"
        );
        cache.pin(&last.id, false).await?;
        prune(
            &client,
            PruneRequest {
                all: true,
                ..PruneRequest::default()
            },
        )
        .await?;
        ensure!(client.disk_usage(Vec::new()).await?.is_empty());
        let runs = cache.runs(10).await?;
        let triggers: Vec<_> = runs.iter().map(|one| one.trigger.as_str()).collect();
        ensure!(triggers == ["prune", "prune", "plan"], "{triggers:?}");
        ensure!(
            runs[2].removals.len() == usize::try_from(runs[2].records)?,
            "{runs:?}"
        );

        let mine = Policy {
            keep_duration_seconds: 60,
            ..everything
        };
        cache.set_policies(vec![mine.clone()]).await?;
        let in_force = cache.policies().await?;
        ensure!(
            !in_force.default && in_force.policies[0] == mine,
            "{in_force:?}"
        );
        ensure!(
            in_force.policies.len() == 2 && in_force.policies[1].max_used_space > 0,
            "there is always a ceiling: {in_force:?}"
        );
        let nonsense = Policy {
            filters: vec!["type=".into()],
            ..Policy::default()
        };
        ensure!(cache.set_policies(vec![nonsense]).await.is_err());
        cache.set_policies(Vec::new()).await?;
        ensure!(cache.policies().await?.default);
        Ok(())
    })
}

fn cache_mounts_from_outside(stage: &mut Stage<'_>) -> Result<()> {
    let context = sample("outside")?;
    stage.build(&context, &[])?.succeeds()?;
    run(async {
        let cache = connect(stage).await?.cache();
        let mounts = cache.mounts().await?;
        ensure!(mounts.len() == 1, "{mounts:?}");
        let mount = &mounts[0];
        ensure!(
            mount.mount_id == "/m-outside" || mount.mount_id == "m-outside",
            "{mount:?}"
        );
        ensure!(
            mount.sharing == "shared" && mount.bytes > 300_000 && !mount.in_use,
            "{mount:?}"
        );
        ensure!(!mount.last_build_ref.is_empty(), "{mount:?}");
        let listed = cache.browse(&mount.record_id, "/").await?;
        let names: Vec<_> = listed.entries.iter().map(|one| one.name.as_str()).collect();
        ensure!(names == ["f", "z"] && !listed.truncated, "{names:?}");
        let file: Vec<_> = cache
            .read_file(&mount.record_id, "f")
            .await?
            .try_collect()
            .await?;
        ensure!(file.concat() == b"outside\n", "{file:?}");
        let climbing = cache
            .read_file(&mount.record_id, "../../../../etc/passwd")
            .await;
        ensure!(climbing.is_err(), "it must not be found");
        let tar: Vec<_> = cache
            .export_mount(&mount.record_id)
            .await?
            .try_collect()
            .await?;
        let freed = cache.clear_mount(&mount.record_id).await?;
        ensure!(freed == mount.bytes && cache.mounts().await?.is_empty());
        let id = Mount::MountId(mount.mount_id.clone());
        let imported = cache
            .import_mount(id, false, futures::stream::iter(tar))
            .await?;
        ensure!(imported.is_some_and(|one| one.bytes > 300_000));
        Ok(())
    })?;
    let again = Context::new(
        "FROM busybox\nRUN --mount=type=cache,id=m-outside,target=/other cat /other/f && wc -c < /other/z\n",
    )?;
    stage
        .build(&again, &[])?
        .succeeds()?
        .says(&["outside", "300000"])?;
    Ok(())
}
