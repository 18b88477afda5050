//! Instructions as values.
//!
//! Words that variables can stand in are kept as written; whoever evaluates a stage expands them with what is
//! defined at that point ([`crate::expand`]).

mod copy;
mod healthcheck;
mod mount;
mod parse;

pub use crate::syntax::Heredoc;
pub use mount::{Mount, MountKind, RunMount, Sharing};
pub(crate) use parse::{Context, Descriptions, Parsed, instruction};

use crate::Span;
use std::sync::Arc;
use yare_oci::Healthcheck;

/// Any instruction but `FROM`, which begins a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is named like its keyword, and its struct is documented")]
pub enum Instruction {
    Add(Add),
    Arg(Arg),
    Cmd(Cmd),
    Copy(Copy),
    Entrypoint(Entrypoint),
    Env(Env),
    Expose(Expose),
    HealthCheck(HealthCheck),
    Label(Label),
    Maintainer(Maintainer),
    OnBuild(OnBuild),
    Run(Run),
    Shell(Shell),
    StopSignal(StopSignal),
    User(User),
    Volume(Volume),
    Workdir(Workdir),
}

impl Instruction {
    /// Its keyword in upper case.
    pub fn keyword(&self) -> &'static str {
        match self {
            Self::Add(_) => "ADD",
            Self::Arg(_) => "ARG",
            Self::Cmd(_) => "CMD",
            Self::Copy(_) => "COPY",
            Self::Entrypoint(_) => "ENTRYPOINT",
            Self::Env(_) => "ENV",
            Self::Expose(_) => "EXPOSE",
            Self::HealthCheck(_) => "HEALTHCHECK",
            Self::Label(_) => "LABEL",
            Self::Maintainer(_) => "MAINTAINER",
            Self::OnBuild(_) => "ONBUILD",
            Self::Run(_) => "RUN",
            Self::Shell(_) => "SHELL",
            Self::StopSignal(_) => "STOPSIGNAL",
            Self::User(_) => "USER",
            Self::Volume(_) => "VOLUME",
            Self::Workdir(_) => "WORKDIR",
        }
    }
}

/// An instruction and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What it says.
    pub instruction: Instruction,
    /// Its keyword as written.
    pub keyword: String,
    /// The whole joined line, without the content of heredocs.
    pub text: String,
    /// All its lines.
    pub span: Span,
    /// Comment lines directly above it, without `#`.
    pub comments: Vec<String>,
}

/// `FROM [--platform=p] image [AS name]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct From {
    /// What the stage is built on: an image, an earlier stage, or `scratch`. Global ARGs expand in it.
    pub base: String,
    /// Name of the stage, in lower case.
    pub name: Option<String>,
    /// The name as written.
    pub written_name: Option<String>,
    /// `AS` as written.
    pub written_as: Option<String>,
    /// `--platform`; global ARGs expand in it.
    pub platform: Option<String>,
}

/// A program to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// A line for the shell, with the heredocs it has.
    Shell {
        /// The line.
        line: String,
        /// What `<<NAME` in it stands for.
        heredocs: Vec<Heredoc>,
    },
    /// Program and arguments as they are.
    Exec(Vec<String>),
}

/// What a `RUN` does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Script {
    /// The shell gets this text as its one argument.
    Shell(String),
    /// The file `name` with this content, which begins with `#!`, is to be made executable and run.
    File {
        /// Its name.
        name: String,
        /// Its content.
        content: String,
    },
    /// No shell: program and arguments.
    Exec(Vec<String>),
}

impl Command {
    /// Program and arguments, `shell` being what runs a line (`["/bin/sh", "-c"]`).
    pub fn argv(&self, shell: &[String]) -> Vec<String> {
        match self {
            Self::Exec(argv) => argv.clone(),
            Self::Shell { line, .. } => shell.iter().cloned().chain([line.clone()]).collect(),
        }
    }

    /// What a `RUN` of it does. A line that is nothing but a heredoc is the heredoc's content: a script for
    /// the shell, or a program of its own if it begins with `#!`. Any other line keeps its heredocs, for the
    /// shell to read.
    pub fn script(&self) -> Script {
        let (line, heredocs) = match self {
            Self::Exec(argv) => return Script::Exec(argv.clone()),
            Self::Shell { line, heredocs } => (line, heredocs),
        };
        match heredocs.as_slice() {
            [] => Script::Shell(line.clone()),
            [only] if crate::syntax::is_heredoc_alone(line) => {
                let content = only.text();
                if content.starts_with("#!") {
                    Script::File { name: only.name.clone(), content }
                } else {
                    Script::Shell(content)
                }
            }
            heredocs => {
                let mut text = line.clone();
                for heredoc in heredocs {
                    text.push('\n');
                    text.push_str(&heredoc.content);
                    text.push_str(&heredoc.name);
                }
                Script::Shell(text)
            }
        }
    }
}

/// `RUN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The program.
    pub command: Command,
    /// `--mount`, in order.
    pub mounts: Vec<RunMount>,
    /// `--network`.
    pub network: Network,
    /// `--security`.
    pub security: Security,
    /// `--device`: names of devices, `name[,required]` as written.
    pub devices: Vec<Device>,
}

/// `RUN --network`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Network {
    /// The builder's network.
    #[default]
    Default,
    /// None but the loopback.
    None,
    /// The host's; needs an entitlement.
    Host,
}

/// `RUN --security`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Security {
    /// Confined.
    #[default]
    Sandbox,
    /// With all privileges; needs an entitlement.
    Insecure,
}

/// `RUN --device`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Name of a device, as CDI has them: `vendor.com/class=name`.
    pub name: String,
    /// Whether its absence is an error.
    pub required: bool,
}

/// `CMD`: default arguments, or the default program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cmd(pub Command);

/// `ENTRYPOINT`: the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entrypoint(pub Command);

/// Where the files of a `COPY` or `ADD` come from and go to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Paths {
    /// Files, directories and patterns (for `ADD` also URLs and git repositories); variables expand.
    pub sources: Vec<String>,
    /// Heredocs.
    pub contents: Vec<Content>,
    /// Where to; variables expand.
    pub destination: String,
}

/// A file whose content is in the Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Its name if the destination is a directory.
    pub path: String,
    /// What is in it. Several sources may share it.
    pub data: Arc<str>,
    /// Whether variables in it expand.
    pub expand: bool,
}

/// `COPY`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Copy {
    /// What goes where.
    pub paths: Paths,
    /// `--from`: a stage's name or number, a named context, an image. Not expanded.
    pub from: Option<String>,
    /// `--chown`; variables expand.
    pub chown: Option<String>,
    /// `--chmod`; variables expand.
    pub chmod: Option<String>,
    /// `--link`: a layer that does not depend on what is below.
    pub link: bool,
    /// `--parents`: the directories that lead to a source are copied too.
    pub parents: bool,
    /// `--exclude`: patterns of what is left out; variables expand.
    pub exclude: Vec<String>,
}

/// `ADD`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Add {
    /// What goes where.
    pub paths: Paths,
    /// `--chown`; variables expand.
    pub chown: Option<String>,
    /// `--chmod`; variables expand.
    pub chmod: Option<String>,
    /// `--link`.
    pub link: bool,
    /// `--exclude`: patterns; variables expand.
    pub exclude: Vec<String>,
    /// `--checksum`: digest of a download or commit of a repository; variables expand.
    pub checksum: Option<String>,
    /// `--keep-git-dir`: leave `.git` in what is cloned. `None`: not said.
    pub keep_git_dir: Option<bool>,
    /// `--unpack`: whether archives are unpacked. `None`: local ones are, downloads are not.
    pub unpack: Option<bool>,
}

/// A name and a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The name; variables expand.
    pub key: String,
    /// The value; variables expand.
    pub value: String,
    /// Whether it was written `KEY value`, the old form, in which the value is the rest of the line.
    pub legacy: bool,
}

/// `ENV`. All of it is expanded with what was defined before the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Env(pub Vec<Pair>);

/// `LABEL`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label(pub Vec<Pair>);

/// One argument that a build takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArgDeclaration {
    /// Its name.
    pub name: String,
    /// Its default; variables expand. `None`: no value unless the build is given one, or a global ARG has one.
    pub default: Option<String>,
    /// What a comment above says about it: `# NAME description`.
    pub description: Option<String>,
}

/// `ARG`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arg(pub Vec<ArgDeclaration>);

/// `MAINTAINER`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Maintainer(pub String);

/// `EXPOSE`: ports as written, sorted; variables expand, then see [`crate::text::parse_ports`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expose(pub Vec<String>);

/// `VOLUME`: paths; variables expand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume(pub Vec<String>);

/// `USER`: `user[:group]`; variables expand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User(pub String);

/// `WORKDIR`: a path; variables expand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workdir(pub String);

/// `STOPSIGNAL`: a name or number; variables expand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopSignal(pub String);

/// `SHELL`: what runs lines of `RUN`, `CMD` and `ENTRYPOINT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shell(pub Vec<String>);

/// `HEALTHCHECK`, as the image's config has it. Times are in nanoseconds, zero being the engine's default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck(pub Healthcheck);

/// `ONBUILD`: an instruction for the builds on top of this image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnBuild {
    /// The instruction as written, with its heredocs.
    pub expression: String,
}
