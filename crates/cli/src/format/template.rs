//! Go templates, as Docker's users write them.

use std::cell::RefCell;
use std::collections::HashMap;

use gtmpl_ng::{Context, FuncError, Template, Value};

use super::Json;

/// A template that has been read.
pub(crate) trait Render {
    /// The text it gives for a document.
    fn render(&self, document: &Json) -> Result<String, String>;
}

/// Reads a template for documents of the engine.
///
/// # Errors
/// The parser's own text.
pub(crate) fn compile(text: &str, header: bool) -> Result<Box<dyn Render>, String> {
    compile_for(&ENGINE, text, header)
}

/// Reads a template for what registries have, in the names of the image specification; `json` writes over
/// several lines.
///
/// # Errors
/// The parser's own text.
pub(crate) fn compile_for_images(text: &str) -> Result<Box<dyn Render>, String> {
    compile_for(&IMAGES, text, false)
}

fn compile_for(form: &'static Form, text: &str, header: bool) -> Result<Box<dyn Render>, String> {
    let mut template = Template::default();
    let functions: &[(&str, gtmpl_ng::Func)] = &[
        ("json", if header { same } else { to_json }),
        ("split", split),
        ("join", join),
        ("title", if header { same } else { title }),
        ("lower", if header { same } else { lower }),
        ("upper", if header { same } else { upper }),
        ("pad", pad),
        ("truncate", if header { same } else { truncate }),
        ("index", index),
        ("yareLabel", if header { header_label } else { label }),
        ("yareJson", if header { json_path_header } else { json_path }),
    ];
    template.add_funcs(functions);
    template.parse(rewrite(text)).map_err(|error| tidy(&error.to_string()))?;
    Ok(Box::new(Compiled(template, form)))
}

struct Compiled(Template, &'static Form);

/// An error in Go's words: without the whole document, and with one column.
fn tidy(text: &str) -> String {
    let mut parts = text.splitn(5, ':');
    let (Some("template"), Some(_), Some(line), Some(column), Some(rest)) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return text.to_owned();
    };
    let column = column.parse::<u32>().unwrap_or(1).saturating_sub(1);
    let what = rest.split_once(':').map_or(rest, |(_, what)| what);
    if let Some(name) = what.strip_prefix("no field `").and_then(|rest| rest.split('`').next()) {
        return format!(
            "template: :{line}:{column}: executing \"\" at <.{name}>: map has no entry for key \"{name}\""
        );
    }
    format!("template: :{line}: {what}")
}

thread_local! {
    /// The document being rendered: `json` looks the original of a value up in it, because the engine's maps
    /// forget the order of members and the difference between an empty list and none.
    static DOCUMENT: RefCell<Option<(Json, &'static Form)>> = const { RefCell::new(None) };
}

impl Render for Compiled {
    fn render(&self, document: &Json) -> Result<String, String> {
        let Self(template, form) = self;
        DOCUMENT.with_borrow_mut(|current| *current = Some((document.clone(), form)));
        let context = Context::from(to_value(document, "", form));
        template.render(&context).map_err(|error| tidy(&error.to_string()))
    }
}

/// How documents look to templates.
struct Form {
    /// Members that are maps with keys of the user's, where a missing key is no error.
    free: &'static [&'static str],
    /// Go's names of members whose JSON names are spelled otherwise.
    go_names: &'static [(&'static str, &'static str)],
    /// Members that are left out when they are empty.
    optional: &'static [Optional],
    /// What a value is to `json`.
    json: fn(&Json) -> String,
    /// Members below which all objects are maps with keys of the user's.
    open: &'static [&'static str],
    /// All of it is below such a member.
    is_open: bool,
}

impl Form {
    fn is_free(&self, name: &str, members: &[(String, Json)]) -> bool {
        // Nothing in Go has a slash in its name.
        let are_keys = !members.is_empty() && members.iter().all(|(name, _)| name.contains('/'));
        self.is_open || self.free.contains(&name) || are_keys
    }

    /// The form of what is below a member.
    fn below(&'static self, name: &str) -> &'static Self {
        if self.open.contains(&name) { &OPEN } else { self }
    }
}

/// Documents of the engine.
static ENGINE: Form = Form {
    free: FREE,
    go_names: GO_NAMES,
    optional: OPTIONAL,
    json: Json::compact,
    open: &[],
    is_open: false,
};

/// What registries have.
static IMAGES: Form = Form {
    free: &["annotations", "Annotations", "Labels", "Volumes", "ExposedPorts", "SBOM", "Provenance"],
    go_names: &[
        ("name", "Name"),
        ("manifest", "Manifest"),
        ("image", "Image"),
        ("schemaVersion", "SchemaVersion"),
        ("mediaType", "MediaType"),
        ("digest", "Digest"),
        ("size", "Size"),
        ("urls", "URLs"),
        ("annotations", "Annotations"),
        ("data", "Data"),
        ("platform", "Platform"),
        ("artifactType", "ArtifactType"),
        ("manifests", "Manifests"),
        ("architecture", "Architecture"),
        ("os", "OS"),
        ("os.version", "OSVersion"),
        ("os.features", "OSFeatures"),
        ("variant", "Variant"),
        ("created", "Created"),
        ("author", "Author"),
        ("config", "Config"),
        ("rootfs", "RootFS"),
        ("type", "Type"),
        ("diff_ids", "DiffIDs"),
        ("history", "History"),
        ("created_by", "CreatedBy"),
        ("comment", "Comment"),
        ("empty_layer", "EmptyLayer"),
    ],
    optional: &[
        Optional {
            mark: "digest",
            texts: &["ArtifactType"],
            lists: &["URLs", "Annotations", "Data"],
            pointers: &["Platform"],
        },
        Optional {
            mark: "architecture",
            texts: &["OSVersion", "Variant"],
            lists: &["OSFeatures"],
            pointers: &[],
        },
        Optional { mark: "rootfs", texts: &["Author", "Created"], lists: &["History"], pointers: &[] },
    ],
    json: image_json,
    open: &["SLSA", "SPDX", "AdditionalSPDXs"],
    is_open: false,
};

/// What is below a member that may be anything.
static OPEN: Form =
    Form { free: &[], go_names: &[], optional: &[], json: Json::compact, open: &[], is_open: true };

/// As Buildx writes it. What is asked for with effort is no member of the whole.
fn image_json(value: &Json) -> String {
    match value {
        Json::Object(members) if value.get("manifest").is_some() => {
            let members = members.iter().filter(|(name, _)| !matches!(&**name, "SBOM" | "Provenance"));
            Json::Object(members.cloned().collect()).pretty_escaped("  ")
        }
        other => other.pretty_escaped("  "),
    }
}

/// The member of a row that holds its labels for `.Label "name"`; it is no field of the row.
pub(super) const LABELS: &str = "\u{1}labels";

/// Members that are maps with keys of the user's, where a missing key is no error.
const FREE: &[&str] = &[
    "Labels",
    "Annotations",
    "Ports",
    "PortBindings",
    "Networks",
    "Volumes",
    "ExposedPorts",
    "Options",
    "Opts",
    "DriverOpts",
    "Sysctls",
    "Tmpfs",
    "StorageOpt",
    "Attributes",
    "Containers",
    "Data",
    "Runtimes",
    "Details",
    LABELS,
];

/// Go's names of members whose JSON names are spelled otherwise.
const GO_NAMES: &[(&str, &str)] = &[
    ("Id", "ID"),
    ("ID", "Id"),
    ("CpuShares", "CPUShares"),
    ("NanoCpus", "NanoCPUs"),
    ("CpuPeriod", "CPUPeriod"),
    ("CpuQuota", "CPUQuota"),
    ("Dns", "DNS"),
    ("DnsOptions", "DNSOptions"),
    ("DnsSearch", "DNSSearch"),
    ("HostIp", "HostIP"),
    ("Os", "OS"),
    ("status", "Status"),
    ("id", "ID"),
    ("from", "From"),
    ("scope", "Scope"),
    ("time", "Time"),
    ("timeNano", "TimeNano"),
];

/// Members that the API leaves out when they are empty: a member that tells such an object, and what is then
/// there all the same for a template, as in Go's structs.
const OPTIONAL: &[Optional] = &[
    Optional { mark: "FinishedAt", texts: &[], lists: &[], pointers: &["Health"] },
    Optional { mark: "RestartCount", texts: &[], lists: &[], pointers: &["SizeRw", "SizeRootFs"] },
    Optional {
        mark: "OnBuild",
        texts: &["StopSignal", "MacAddress"],
        lists: &["ExposedPorts", "Shell"],
        pointers: &["Healthcheck", "StopTimeout"],
    },
    Optional {
        mark: "PortBindings",
        texts: &["Runtime"],
        lists: &["Annotations", "StorageOpt", "Tmpfs", "Sysctls", "Mounts"],
        pointers: &["Init"],
    },
    Optional {
        mark: "RootFS",
        texts: &["Created", "Variant", "OsVersion"],
        lists: &["Manifests"],
        pointers: &["Descriptor"],
    },
    Optional { mark: "Mountpoint", texts: &["CreatedAt"], lists: &["Status"], pointers: &["UsageData"] },
    Optional { mark: "timeNano", texts: &["Status", "ID", "From"], lists: &[], pointers: &[] },
];

/// Members that are sometimes left out.
struct Optional {
    /// A member that only such an object has.
    mark: &'static str,
    texts: &'static [&'static str],
    /// Lists and maps.
    lists: &'static [&'static str],
    pointers: &'static [&'static str],
}

fn to_value(document: &Json, name: &str, form: &'static Form) -> Value {
    let form = form.below(name);
    match document {
        // Most things that are null are lists or maps without members, which Go prints so.
        Json::Null if form.free.contains(&name) => Value::Map(HashMap::new()),
        Json::Null if name == "Platform" => Value::String("<nil>".to_owned()),
        Json::Null => Value::Array(Vec::new()),
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(value), _, _) => Value::from(value),
            (_, Some(value), _) => Value::from(value),
            (_, _, value) => Value::from(value.unwrap_or(0.0)),
        },
        Json::Text(text) => Value::String(text.clone()),
        Json::List(items) => Value::Array(items.iter().map(|item| to_value(item, "", form)).collect()),
        Json::Object(members) => {
            let mut map: HashMap<String, Value> =
                members.iter().map(|(name, value)| (name.clone(), to_value(value, name, form))).collect();
            if form.is_free(name, members) {
                return Value::Map(map);
            }
            for (json, go) in form.go_names {
                if !map.contains_key(*go)
                    && let Some(value) = map.get(*json)
                {
                    let value = value.clone();
                    map.insert((*go).to_owned(), value);
                }
            }
            fill(&mut map, form);
            Value::Object(map)
        }
    }
}

/// Adds what was left out.
fn fill(map: &mut HashMap<String, Value>, form: &'static Form) {
    let known: Vec<&Optional> =
        form.optional.iter().filter(|optional| map.contains_key(optional.mark)).collect();
    for Optional { texts, lists, pointers, .. } in known {
        let empty = texts
            .iter()
            .map(|name| (*name, Value::String(String::new())))
            .chain(lists.iter().map(|name| (*name, to_value(&Json::Null, name, form))))
            .chain(pointers.iter().map(|name| (*name, Value::Nil)));
        for (name, value) in empty {
            map.entry(name.to_owned()).or_insert(value);
        }
    }
}

/// Rewrites the two things that the template engine cannot do by itself: methods with an argument
/// (`.Label "x"`), and `json` of a path, which must find the original.
fn rewrite(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("{{") {
        let end = rest[start..].find("}}").map_or(rest.len(), |end| start + end);
        out.push_str(&rest[..start]);
        out.push_str(&rewrite_action(&rest[start..end]));
        rest = &rest[end..];
    }
    out.push_str(rest);
    out
}

fn rewrite_action(action: &str) -> String {
    let mut out = String::with_capacity(action.len());
    let mut rest = action;
    while !rest.is_empty() {
        let boundary =
            out.chars().next_back().is_none_or(|last| !(last.is_alphanumeric() || "_)$\"`.".contains(last)));
        if rest.starts_with('"') || rest.starts_with('`') {
            let quote = &rest[..1];
            let close = closing(rest, quote);
            out.push_str(&rest[..close]);
            rest = &rest[close..];
        } else if boundary && let Some(after) = rest.strip_prefix(".Label ") {
            out.push_str("yareLabel . ");
            rest = after;
        } else if boundary && let Some(after) = rest.strip_prefix("$.Label ") {
            out.push_str("yareLabel $ ");
            rest = after;
        } else if boundary && let Some((root, path, after)) = json_call(rest) {
            out.push_str(&format!("yareJson {root} \"{path}\""));
            rest = after;
        } else {
            let next = rest.chars().next().map_or(0, char::len_utf8);
            out.push_str(&rest[..next]);
            rest = &rest[next..];
        }
    }
    out
}

fn closing(text: &str, quote: &str) -> usize {
    let mut escaped = false;
    for (index, letter) in text.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if letter == '\\' && quote == "\"" {
            escaped = true;
        } else if text[index..].starts_with(quote) {
            return index + 1;
        }
    }
    text.len()
}

/// `json .A.B` or `json $.A`: the root, the path and what follows.
fn json_call(text: &str) -> Option<(&str, &str, &str)> {
    let after = text.strip_prefix("json ")?.trim_start();
    let (root, path) = match after.strip_prefix('$') {
        Some(path) => ("$", path),
        None => (".", after),
    };
    if !path.starts_with('.') {
        return None;
    }
    let end = path
        .find(|letter: char| !(letter.is_alphanumeric() || letter == '.' || letter == '_'))
        .unwrap_or(path.len());
    Some((root, &path[..end], &path[end..]))
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn argument<'v>(arguments: &'v [Value], index: usize, function: &str) -> Result<&'v Value, FuncError> {
    arguments.get(index).ok_or_else(|| FuncError::AtLeastXArgs(function.to_owned(), index + 1))
}

fn same(arguments: &[Value]) -> Result<Value, FuncError> {
    argument(arguments, 0, "header").cloned()
}

fn to_json(arguments: &[Value]) -> Result<Value, FuncError> {
    Ok(Value::String(json_of(argument(arguments, 0, "json")?)))
}

fn json_of(value: &Value) -> String {
    let found = DOCUMENT.with_borrow(|document| {
        let (document, form) = document.as_ref()?;
        // A row writes itself, and escapes what it writes.
        match original(document, value, "", form)? {
            Json::Object(members) if members.iter().any(|(name, _)| name == LABELS) => {
                let fields = members.iter().filter(|(name, _)| name != LABELS).cloned().collect();
                Some(Json::Object(fields).compact_escaped())
            }
            other => Some((form.json)(other)),
        }
    });
    found.unwrap_or_else(|| from_value(value).compact())
}

/// The part of the document that this value was made from.
fn original<'d>(document: &'d Json, value: &Value, name: &str, form: &'static Form) -> Option<&'d Json> {
    if to_value(document, name, form) == *value {
        return Some(document);
    }
    let form = form.below(name);
    match document {
        Json::List(items) => items.iter().find_map(|item| original(item, value, "", form)),
        Json::Object(members) => {
            members.iter().find_map(|(name, member)| original(member, value, name, form))
        }
        _ => None,
    }
}

fn from_value(value: &Value) -> Json {
    match value {
        Value::NoValue | Value::Nil | Value::Function(_) => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::String(text) => Json::Text(text.clone()),
        Value::Number(number) => serde_json::from_str(&number.to_string()).unwrap_or(Json::Null),
        Value::Array(items) => Json::List(items.iter().map(from_value).collect()),
        Value::Object(members) | Value::Map(members) => {
            let mut members: Vec<_> =
                members.iter().map(|(name, value)| (name.clone(), from_value(value))).collect();
            members.sort_by(|(a, _), (b, _)| a.cmp(b));
            Json::Object(members)
        }
    }
}

fn json_path(arguments: &[Value]) -> Result<Value, FuncError> {
    let root = argument(arguments, 0, "json")?;
    let path = text(argument(arguments, 1, "json")?);
    let path = path.trim_start_matches('.');
    if path.is_empty() {
        return Ok(Value::String(json_of(root)));
    }
    let found = DOCUMENT.with_borrow(|document| {
        let (document, form) = document.as_ref()?;
        let base = original(document, root, "", form)?;
        base.at(path).map(form.json)
    });
    if let Some(found) = found {
        return Ok(Value::String(found));
    }
    let mut current = root;
    for name in path.split('.') {
        match current {
            Value::Map(members) | Value::Object(members) if members.contains_key(name) => {
                current = &members[name]
            }
            Value::Map(_) => return Ok(Value::String("null".to_owned())),
            _ => return Err(FuncError::Generic(format!("map has no entry for key \"{name}\""))),
        }
    }
    Ok(Value::String(json_of(current)))
}

fn json_path_header(arguments: &[Value]) -> Result<Value, FuncError> {
    let root = argument(arguments, 0, "json")?;
    let path = text(argument(arguments, 1, "json")?);
    match root {
        Value::Map(members) | Value::Object(members) => {
            Ok(members.get(path.trim_start_matches('.')).cloned().unwrap_or(Value::NoValue))
        }
        other => Ok(other.clone()),
    }
}

/// Go's `index`, where a key that a map of texts lacks gives an empty text.
fn index(arguments: &[Value]) -> Result<Value, FuncError> {
    let mut current = argument(arguments, 0, "index")?.clone();
    for key in &arguments[1..] {
        let next = match &current {
            Value::Map(members) | Value::Object(members) => match members.get(&text(key)) {
                Some(value) => value.clone(),
                None if members.values().all(|value| matches!(value, Value::String(_))) => {
                    Value::String(String::new())
                }
                None => Value::Array(Vec::new()),
            },
            Value::Array(items) => {
                let place = text(key);
                let item = place.parse::<usize>().ok().and_then(|place| items.get(place));
                item.cloned().ok_or(FuncError::IndexOutOfRange { index: place })?
            }
            Value::String(letters) => {
                let place = text(key);
                let byte = place.parse::<usize>().ok().and_then(|place| letters.as_bytes().get(place));
                byte.map(|byte| Value::from(u64::from(*byte)))
                    .ok_or(FuncError::IndexOutOfRange { index: place })?
            }
            _ => return Err(FuncError::Generic(format!("can't index item of {current}"))),
        };
        current = next;
    }
    Ok(current)
}

fn label(arguments: &[Value]) -> Result<Value, FuncError> {
    let name = text(argument(arguments, 1, "Label")?);
    let found = match argument(arguments, 0, "Label")? {
        Value::Object(members) | Value::Map(members) => match members.get(LABELS) {
            Some(Value::Map(labels) | Value::Object(labels)) => labels.get(&name).map(text),
            _ => None,
        },
        _ => None,
    };
    Ok(Value::String(found.unwrap_or_default()))
}

fn header_label(arguments: &[Value]) -> Result<Value, FuncError> {
    let name = text(argument(arguments, 1, "Label")?);
    let last = name.rsplit('.').next().unwrap_or_default();
    Ok(Value::String(last.replace(['-', '_'], " ")))
}

fn split(arguments: &[Value]) -> Result<Value, FuncError> {
    let (whole, by) = (text(argument(arguments, 0, "split")?), text(argument(arguments, 1, "split")?));
    Ok(Value::Array(whole.split(by.as_str()).map(|part| Value::String(part.to_owned())).collect()))
}

fn join(arguments: &[Value]) -> Result<Value, FuncError> {
    let by = text(argument(arguments, 1, "join")?);
    match argument(arguments, 0, "join")? {
        Value::Array(items) => Ok(Value::String(items.iter().map(text).collect::<Vec<_>>().join(&by))),
        other => Ok(Value::String(text(other))),
    }
}

fn title(arguments: &[Value]) -> Result<Value, FuncError> {
    let mut titled = String::new();
    let mut start = true;
    for letter in text(argument(arguments, 0, "title")?).chars() {
        if start {
            titled.extend(letter.to_uppercase())
        } else {
            titled.push(letter)
        }
        start = !letter.is_alphanumeric() && letter != '_' && letter != '\'';
    }
    Ok(Value::String(titled))
}

fn lower(arguments: &[Value]) -> Result<Value, FuncError> {
    Ok(Value::String(text(argument(arguments, 0, "lower")?).to_lowercase()))
}

fn upper(arguments: &[Value]) -> Result<Value, FuncError> {
    Ok(Value::String(text(argument(arguments, 0, "upper")?).to_uppercase()))
}

fn number(value: &Value) -> usize {
    text(value).parse().unwrap_or(0)
}

fn pad(arguments: &[Value]) -> Result<Value, FuncError> {
    let whole = text(argument(arguments, 0, "pad")?);
    if whole.is_empty() {
        return Ok(Value::String(whole));
    }
    let (before, after) = (number(argument(arguments, 1, "pad")?), number(argument(arguments, 2, "pad")?));
    Ok(Value::String(format!("{}{whole}{}", " ".repeat(before), " ".repeat(after))))
}

fn truncate(arguments: &[Value]) -> Result<Value, FuncError> {
    let whole = text(argument(arguments, 0, "truncate")?);
    let most = number(argument(arguments, 1, "truncate")?);
    Ok(Value::String(whole.get(..most).map_or(whole.clone(), str::to_owned)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(template: &str, document: &str) -> String {
        compile(template, false).unwrap().render(&serde_json::from_str(document).unwrap()).unwrap()
    }

    #[test]
    fn what_people_write() {
        let document = r#"{"Id":"abc","Name":"/web","State":{"Status":"running","Running":true,"Pid":12},"Config":{"Env":["A=1","B=2"],"Labels":{"x.y":"z"},"Entrypoint":null,"Cmd":["a","b"]},"NetworkSettings":{"Networks":{"bridge":{"IPAddress":"172.17.0.2","Gateway":""}},"Ports":{"80/tcp":[{"HostIp":"0.0.0.0","HostPort":"8080"}]}}}"#;
        for (template, expected) in [
            ("{{.State.Status}}", "running"),
            ("{{.ID}} {{.Id}}", "abc abc"),
            ("{{json .State}}", r#"{"Status":"running","Running":true,"Pid":12}"#),
            ("{{json .Config.Entrypoint}} {{json .Config.Cmd}}", r#"null ["a","b"]"#),
            ("{{.Config.Entrypoint}} {{.Config.Cmd}}", "[] [a b]"),
            ("{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", "172.17.0.2"),
            ("{{.NetworkSettings.Networks.bridge.IPAddress}}", "172.17.0.2"),
            (r#"{{(index (index .NetworkSettings.Ports "80/tcp") 0).HostPort}}"#, "8080"),
            (r#"{{index .Config.Labels "x.y"}}"#, "z"),
            ("{{range .Config.Env}}{{println .}}{{end}}", "A=1\nB=2\n"),
            (r#"{{join .Config.Env ","}}"#, "A=1,B=2"),
            (
                r#"{{range $k, $v := .NetworkSettings.Networks}}{{$k}}={{$v.IPAddress}}{{end}}"#,
                "bridge=172.17.0.2",
            ),
            ("{{upper .State.Status}} {{title .State.Status}} {{pad .Id 1 2}}|", "RUNNING Running  abc  |"),
            (r#"{{slice .Name 1}}"#, "web"),
            ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
            ("{{.State.Pid}}", "12"),
            ("{{len .Config.Env}}", "2"),
            (r#"{{truncate .State.Status 3}}"#, "run"),
            (r#"{{with index .Config.Env 0}}{{.}}{{end}}"#, "A=1"),
            (r#"{{split .Name "/"}}"#, "[ web]"),
        ] {
            assert_eq!(render(template, document), expected, "{template}");
        }
        assert!(compile("{{.State", false).is_err());
        let missing = compile("{{.Nope}}", false).unwrap();
        assert!(missing.render(&serde_json::from_str(document).unwrap()).is_err());
    }

    #[test]
    fn what_registries_have_goes_by_gos_names_too() {
        let document = r#"{"name":"a","manifest":{"mediaType":"m","digest":"sha256:0","size":1,"manifests":[
            {"mediaType":"n","digest":"sha256:1","size":2,"platform":{"architecture":"arm","os":"linux"}},
            {"mediaType":"n","digest":"sha256:2","size":2,"annotations":{"a.b":"<c>"}}]},
            "image":{"linux/amd64":{"architecture":"amd64","config":{"Env":["A=1"]},"rootfs":{"diff_ids":[]}}},
            "Provenance":{"linux/amd64":{"SLSA":{"name":"x","b":{"os":"y"}}}},"SBOM":{}}"#;
        let document: Json = serde_json::from_str(document).unwrap();
        let render = |template: &str| compile_for_images(template).unwrap().render(&document);
        for (template, expected) in [
            ("{{.Name}} {{.Manifest.MediaType}} {{len .Manifest.Manifests}}", "a m 2"),
            (
                "{{range .Manifest.Manifests}}{{.Digest}}{{with .Platform}} {{.OS}}{{end}},{{end}}",
                "sha256:1 linux,sha256:2,",
            ),
            (r#"{{range .Manifest.Manifests}}{{index .Annotations "a.b"}}|{{end}}"#, "|<c>|"),
            (r#"{{json (index .Manifest.Manifests 1).Annotations}}"#, "{\n  \"a.b\": \"\\u003cc\\u003e\"\n}"),
            (r#"{{(index .Image "linux/amd64").Architecture}}"#, "amd64"),
            (
                "{{range $name, $image := .Image}}{{$name}}: {{$image.Config.Env}}{{end}}",
                "linux/amd64: [A=1]",
            ),
            (r#"{{json (index .Provenance "linux/amd64").SLSA.b}}"#, "{\n  \"os\": \"y\"\n}"),
            ("{{range $k, $v := (index .Provenance \"linux/amd64\").SLSA.b}}{{$k}}={{$v}}{{end}}", "os=y"),
            ("{{json .SBOM}} {{json .SBOM.SPDX}}", "{} null"),
        ] {
            assert_eq!(render(template).as_deref(), Ok(expected), "{template}");
        }
        let whole = render("{{json .}}").unwrap();
        assert!(whole.starts_with("{\n  \"name\": \"a\",") && !whole.contains("SLSA"), "{whole}");
        assert!(render("{{.Nope}}").is_err());
    }

    #[test]
    fn labels_are_asked_for_with_an_argument() {
        let document = "{\"ID\":\"a\",\"Labels\":\"x=y\",\"\\u0001labels\":{\"x\":\"y\"}}";
        assert_eq!(render(r#"{{.ID}} {{.Label "x"}}{{.Label "none"}}|"#, document), "a y|");
        assert_eq!(rewrite(r#"{{ "a .Label b" }} {{.Labels}}"#), r#"{{ "a .Label b" }} {{.Labels}}"#);
    }
}
