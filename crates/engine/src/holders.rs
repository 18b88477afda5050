//! Who holds a thing that cannot be removed: named, with state, age and the command that frees it.

use crate::Engine;
use crate::container::Container;
use yare_oci::Digest;

/// One line for each of these containers.
pub(crate) fn explain(engine: &Engine, ids: &[String]) -> String {
    let lines: Vec<String> = ids
        .iter()
        .filter_map(|id| engine.containers.by_id(id))
        .map(|container| line(engine, &container))
        .collect();
    lines.join("\n")
}

fn line(engine: &Engine, container: &Container) -> String {
    let record = container.record();
    let age = age(engine, &record);
    let force = if record.state.status.has_process() { "-f " } else { "" };
    format!(
        "container {} ({}) is {} since {age}; remove it with: yare rm {force}{}",
        record.name,
        container.short_id(),
        record.state.status,
        record.name
    )
}

fn age(engine: &Engine, record: &crate::container::Record) -> String {
    let since = match record.state.status.has_process() {
        true => record.state.started_at,
        false => record.state.finished_at,
    };
    let elapsed = engine.clock.now().duration_since(since.unwrap_or(record.created));
    yare_api::units::human_duration(std::time::Duration::try_from(elapsed).unwrap_or_default())
}

/// The containers made from an image or with it mounted, as the image store wants them for its conflict texts.
pub(crate) fn of_image(engine: &Engine, image: &Digest) -> Vec<yare_image::Holder> {
    let containers = engine.containers.all();
    containers
        .iter()
        .map(|container| container.record())
        .filter(|record| record.uses_image(image))
        .map(|record| yare_image::Holder {
            id: record.id.clone(),
            name: record.name.clone(),
            state: record.state.status.to_string(),
            running: record.state.status.counts_as_running(),
            age: age(engine, &record),
        })
        .collect()
}
