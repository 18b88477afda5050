//! Images and containers that go by themselves, so that they do not pile up and the disk does not fill.

mod policy;

pub use policy::{CleaningSettings, MinFree};

use crate::images::{self, blocking};
use crate::lifecycle::State;
use crate::{Engine, holders};
use policy::{ContainerFact, Facts, ImageFact, Plan};
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};
use yare_api::{CleaningStatus, Pruned};
use yare_errdefs::{Error, Result};

/// How often it is looked whether something is to go; a shorter limit shortens it.
const PAUSE: Duration = Duration::from_secs(60);
/// The shortest pause.
const SHORTEST: Duration = Duration::from_secs(1);

/// Cleans now and then, as long as the engine lives.
pub(crate) fn keep_clean(engine: &Arc<Engine>) {
    let settings = &engine.config.cleaning;
    let limits = [settings.retag_grace, settings.images, settings.containers];
    let shortest = limits.into_iter().flatten().filter_map(|limit| Duration::try_from(limit).ok()).min();
    let pause = shortest.map_or(PAUSE, |limit| limit.clamp(SHORTEST, PAUSE));
    let engine = Arc::downgrade(engine);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(pause).await;
            match clean(&engine).await {
                None => return,
                Some(Err(error)) => {
                    tracing::warn!(error = yare_errdefs::chain(&error), "not everything was cleaned");
                }
                Some(Ok(())) => {}
            }
        }
    });
}

async fn clean(engine: &Weak<Engine>) -> Option<Result<()>> {
    let engine = engine.upgrade().filter(|engine| !engine.stopping())?;
    Some(act(&engine).await)
}

/// The settings, and what would go now.
pub async fn status(engine: &Arc<Engine>) -> Result<CleaningStatus> {
    let plan = planned(engine).await?;
    let settings = &engine.config.cleaning;
    let limit = |limit: Option<jiff::SignedDuration>, never: &str| {
        limit.map_or_else(|| never.to_owned(), |limit| format!("{}s", limit.as_secs()))
    };
    let (total, free) = crate::facts::disk(&engine.config.data_root);
    Ok(CleaningStatus {
        retag_grace: limit(settings.retag_grace, "keep"),
        images: limit(settings.images, "off"),
        containers: limit(settings.containers, "off"),
        min_free: signed(settings.min_free.of(total)),
        free: signed(free),
        build_cache: plan.cache.as_ref().map_or(0, |(bytes, _)| signed(*bytes)),
        planned: Some(explained(&plan)),
    })
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn explained(plan: &Plan) -> Vec<Pruned> {
    let containers = plan.containers.iter().map(|(container, why)| Pruned {
        id: container.id.clone(),
        names: vec![container.name.clone()],
        last_used: container.stopped_since.as_second(),
        size: signed(container.bytes),
        reason: why.clone(),
    });
    let images = plan.images.iter().map(|(image, why)| Pruned {
        id: image.id.to_string(),
        names: image.names.clone(),
        last_used: image.unused_since.as_second(),
        size: signed(image.bytes),
        reason: why.clone(),
    });
    containers.chain(images).collect()
}

async fn planned(engine: &Arc<Engine>) -> Result<Plan> {
    let engine = Arc::clone(engine);
    blocking(move || Ok(policy::decide(&engine.config.cleaning, facts(&engine), engine.clock.now()))).await
}

fn facts(engine: &Engine) -> Facts {
    let (total, free) = crate::facts::disk(&engine.config.data_root);
    let is_full = free < engine.config.cleaning.min_free.of(total);
    let usage = engine.images.usage();
    let idle = usage.images.iter().filter(|usage| {
        holders::of_image(engine, &usage.image.id.0).is_empty()
            && engine.images.children(&usage.image.id).is_empty()
    });
    let images = idle.filter_map(|usage| {
        let image = &usage.image;
        Some(ImageFact {
            id: image.id,
            names: image.tags().into_iter().chain(image.repo_digests()).collect(),
            lost_tag: image.references.is_empty() && image.tagged.is_some(),
            unused_since: image.unused_since()?,
            bytes: usage.unique,
            shared: usage.shared_layers.clone(),
        })
    });
    Facts {
        images: images.collect(),
        containers: stopped(engine),
        // Part of it is walked: only when it matters.
        cache: if is_full { crate::build::collect::reclaimable(engine) } else { 0 },
        total,
        free,
    }
}

fn stopped(engine: &Engine) -> Vec<ContainerFact> {
    // Their writable layers are walked: only where they may go.
    if engine.config.cleaning.containers.is_none() {
        return Vec::new();
    }
    let records = engine.containers.all().into_iter().map(|container| container.record());
    let stopped =
        records.filter(|record| matches!(record.state.status, State::Created | State::Exited | State::Dead));
    stopped
        .map(|record| ContainerFact {
            id: record.id.clone(),
            name: record.name.clone(),
            stopped_since: record.unused_since(),
            bytes: crate::containers::logs::own_size(engine, &record),
        })
        .collect()
}

/// Does what is decided. What was used meanwhile stays, and a failure leaves the rest to be done.
async fn act(engine: &Arc<Engine>) -> Result<()> {
    let plan = planned(engine).await?;
    let mut outcome = Ok(());
    for (fact, why) in &plan.containers {
        let Some(container) = engine.containers.by_id(&fact.id) else { continue };
        match crate::containers::remove::discard(engine, &container, fact.stopped_since).await {
            Ok(true) => {
                tracing::info!(container = fact.id, name = fact.name, bytes = fact.bytes, why, "cleaned");
            }
            Ok(false) => {}
            Err(error) => outcome = Err(error),
        }
    }
    let engine = Arc::clone(engine);
    blocking(move || {
        if let Some((bytes, why)) = &plan.cache {
            let freed = crate::build::collect::give_back(&engine, *bytes);
            tracing::info!(bytes = freed, why, "results of builds were cleaned");
        }
        for (fact, why) in &plan.images {
            if let Err(error) = discard_image(&engine, fact, why) {
                outcome = Err(error);
            }
        }
        sweep_downloads(&engine)?;
        outcome
    })
    .await
}

/// What is there of layers whose pull broke off and was not gone on with.
fn sweep_downloads(engine: &Engine) -> Result<()> {
    let swept = engine.images.content().sweep_partials(SystemTime::now());
    let swept = swept.map_err(|error| Error::wrap(error.to_string(), error))?;
    if swept > 0 {
        tracing::info!(swept, "downloads that broke off were cleaned");
    }
    Ok(())
}

fn discard_image(engine: &Engine, fact: &ImageFact, why: &str) -> Result<()> {
    let holders = |image: &yare_image::ImageId| holders::of_image(engine, &image.0);
    let removal = engine.images.discard(&fact.id, fact.unused_since, &holders)?;
    for event in &removal.events {
        let attributes =
            BTreeMap::from([("name".to_owned(), event.name.clone()), ("reason".to_owned(), why.to_owned())]);
        images::publish_with(engine, event, attributes);
    }
    if !removal.events.is_empty() {
        let names = fact.names.join(", ");
        tracing::info!(image = %fact.id, names, bytes = removal.reclaimed, why, "cleaned");
    }
    Ok(())
}
