//! Tags of entries: a Go template over what a container is.

use gtmpl_ng::{Context, Template, Value};
use std::collections::HashMap;
use yare_errdefs::Error;

/// What a tag may name.
#[derive(Debug, Clone, Default)]
pub struct TagFields {
    /// 64 hex digits.
    pub id: String,
    /// Without a slash.
    pub name: String,
    /// The image's id, with its algorithm.
    pub image_id: String,
    /// The image as the user named it.
    pub image_name: String,
    /// The command line.
    pub command: String,
}

impl TagFields {
    /// As Docker's names; short ids have twelve characters.
    fn to_value(&self) -> Value {
        let short = |id: &str| id.chars().take(12).collect::<String>();
        let fields = [
            ("ID", short(&self.id)),
            ("FullID", self.id.clone()),
            ("Name", self.name.clone()),
            ("ImageID", short(&self.image_id)),
            ("ImageFullID", self.image_id.clone()),
            ("ImageName", self.image_name.clone()),
            ("Command", self.command.clone()),
            ("DaemonName", "docker".to_owned()),
            ("ContainerID", self.id.clone()),
            ("ContainerName", format!("/{}", self.name)),
            ("ContainerImageID", self.image_id.clone()),
            ("ContainerImageName", self.image_name.clone()),
        ];
        let fields: HashMap<String, Value> =
            fields.into_iter().map(|(name, text)| (name.to_owned(), Value::String(text))).collect();
        Value::Object(fields)
    }
}

/// The tag that a template gives.
///
/// # Errors
/// It cannot be read, or names what there is not. Class invalid argument.
pub fn render(template: &str, fields: &TagFields) -> Result<String, Error> {
    let wrong =
        |why: String| Error::invalid(format!("failed to initialize logging driver: log opt 'tag': {why}"));
    if !template.contains("{{") {
        return Ok(template.to_owned());
    }
    let mut parsed = Template::default();
    parsed.parse(template).map_err(|error| wrong(error.to_string()))?;
    parsed.render(&Context::from(fields.to_value())).map_err(|error| wrong(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_docker() {
        let fields = TagFields {
            id: "8f84a17f43ab93f5872be876".to_owned(),
            name: "nn".to_owned(),
            image_id: "sha256:e7ab5b4b8796d286".to_owned(),
            image_name: "bb:1".to_owned(),
            command: "sh -c x".to_owned(),
        };
        let template =
            "{{.ImageName}}/{{.Name}}/{{.ID}}/{{ .ImageID }}/{{.FullID}}/{{.DaemonName}}/{{.Command}}";
        assert_eq!(
            render(template, &fields).unwrap(),
            "bb:1/nn/8f84a17f43ab/sha256:e7ab5/8f84a17f43ab93f5872be876/docker/sh -c x"
        );
        assert_eq!(render("plain", &fields).unwrap(), "plain");
    }

    #[test]
    fn what_there_is_not_is_told() {
        for template in ["{{.Foo", "{{.Foo}}", "{{foo .ID}}"] {
            let text = render(template, &TagFields::default()).unwrap_err().to_string();
            assert!(text.starts_with("failed to initialize logging driver: log opt 'tag': "), "{text}");
        }
    }
}
