//! Running the program, and saying why it does not run.

use crate::error::{Result, StartError, Step, reason};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::convert::Infallible;
use std::ffi::CString;
use yare_sys::process::execve;

/// Where programs are looked for without a PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program ready to be run: all memory is allocated before the process is confined.
#[derive(Debug)]
pub(crate) struct Program {
    name: String,
    candidates: Vec<CString>,
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

impl Program {
    /// Settles where the program may be.
    pub(crate) fn new(arguments: &[String], environment: &[String]) -> Result<Self> {
        let name = arguments
            .first()
            .filter(|name| !name.is_empty())
            .ok_or_else(|| StartError::invalid(Step::Spec, "no command specified"))?;
        let path = environment.iter().rev().find_map(|entry| entry.strip_prefix("PATH="));
        let candidates = candidates(name, path.unwrap_or(DEFAULT_PATH));
        Ok(Self {
            name: name.clone(),
            candidates: strings(&candidates)?,
            arguments: strings(arguments)?,
            environment: strings(environment)?,
        })
    }

    /// Runs it; returns only why that failed.
    pub(crate) fn run(&self) -> Result<Infallible> {
        let mut errors = Vec::with_capacity(self.candidates.len());
        for candidate in &self.candidates {
            let error = execve(candidate, &self.arguments, &self.environment);
            let errno = error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error);
            errors.push(errno);
            if !matches!(errno, Errno::NOENT | Errno::NOTDIR | Errno::ACCESS | Errno::LOOP) {
                break;
            }
        }
        Err(self.explain(&errors))
    }

    fn explain(&self, errors: &[Errno]) -> StartError {
        let lookup = !self.name.contains('/');
        for (candidate, errno) in self.candidates.iter().zip(errors) {
            let Ok(path) = candidate.to_str() else { continue };
            if lookup && !is_executable(path) {
                continue;
            }
            return explain_file(path, *errno);
        }
        not_found(format!("exec: {:?}: executable file not found in $PATH", self.name)).with_hint(format!(
            "there is no program {:?} in any directory of the container's PATH; check its spelling and \
             whether the image has it",
            self.name
        ))
    }
}

fn strings(texts: &[String]) -> Result<Vec<CString>> {
    let bad = |_| StartError::invalid(Step::Spec, "an argument or variable contains a null byte");
    texts.iter().map(|text| CString::new(text.as_str()).map_err(bad)).collect()
}

fn candidates(name: &str, path: &str) -> Vec<String> {
    if name.contains('/') {
        return vec![name.to_string()];
    }
    path.split(':').filter(|folder| !folder.is_empty()).map(|folder| format!("{folder}/{name}")).collect()
}

fn is_executable(path: &str) -> bool {
    rustix::fs::stat(path).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_mode & 0o111 != 0
    })
}

fn not_found(text: String) -> StartError {
    StartError::not_found(Step::Exec, text).with_exit_code(127)
}

fn denied(text: String) -> StartError {
    StartError::denied(Step::Exec, text).with_exit_code(126)
}

/// Why this file does not run, in Docker's words where it has some.
fn explain_file(path: &str, errno: Errno) -> StartError {
    let stat = match rustix::fs::stat(path) {
        Ok(stat) => stat,
        Err(error) => {
            let text = format!("exec: {path:?}: stat {path}: {}", reason(&error.into()));
            return match error {
                Errno::NOENT | Errno::NOTDIR => {
                    not_found(text).with_hint("the image does not have this file")
                }
                _ => denied(text),
            };
        }
    };
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return denied(format!("exec: {path:?}: is a directory"));
    }
    match errno {
        Errno::ACCESS => explain_denial(path, stat.st_mode),
        Errno::NOENT => missing_interpreter(path),
        Errno::NOEXEC => wrong_format(path),
        error => denied(format!("exec: {path:?}: {}", reason(&error.into()))),
    }
}

fn explain_denial(path: &str, mode: u32) -> StartError {
    let error = denied(format!("exec: {path:?}: permission denied"));
    if mode & 0o111 == 0 {
        return error.with_hint(format!("the file is not marked executable; in the image: chmod +x {path}"));
    }
    let noexec = rustix::fs::statvfs(path)
        .is_ok_and(|stat| stat.f_flag.contains(rustix::fs::StatVfsMountFlags::NOEXEC));
    if noexec {
        return error.with_hint("it lies on a filesystem that is mounted noexec");
    }
    error.with_hint(
        "the user of the process may not execute this file, its interpreter, or enter a directory above it",
    )
}

/// The first bytes of a file: enough for a `#!` line and the tables of an ELF file.
fn head(path: &str) -> Vec<u8> {
    let read = || -> rustix::io::Result<Vec<u8>> {
        let file = rustix::fs::openat(
            CWD,
            path,
            OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK,
            Mode::empty(),
        )?;
        let mut bytes = Vec::with_capacity(4096);
        rustix::io::read(&file, rustix::buffer::spare_capacity(&mut bytes))?;
        Ok(bytes)
    };
    read().unwrap_or_default()
}

/// The file is there, and what it names to run it is not.
fn missing_interpreter(path: &str) -> StartError {
    let bytes = head(path);
    if let Some(line) = shebang(&bytes) {
        if let Some(interpreter) = line.strip_suffix('\r') {
            let text = format!(
                "exec: {path:?}: no such file or directory: its first line ends in a carriage return, so the \
                 interpreter {:?} is not found",
                format!("{interpreter}\\r")
            );
            return not_found(text).with_hint(format!(
                "the script has Windows line endings; convert it: sed -i 's/\\r$//' {path}"
            ));
        }
        let text =
            format!("exec: {path:?}: no such file or directory: its interpreter {line} is not in the image");
        return not_found(text)
            .with_hint(format!("install {line} in the image or change the first line of {path}"));
    }
    match elf(&bytes) {
        Some(Elf { interpreter: Some(loader), .. }) => {
            let text = format!(
                "exec: {path:?}: no such file or directory: its ELF loader {loader} is not in the image"
            );
            let hint = if loader.contains("musl") {
                "the program was built for musl (Alpine); use such an image or link it statically"
            } else {
                "the program was built for another C library than the image has (often glibc on Alpine); \
                 use an image that has it or link the program statically"
            };
            not_found(text).with_hint(hint)
        }
        _ => not_found(format!("exec: {path:?}: no such file or directory")),
    }
}

/// The kernel does not know this kind of file.
fn wrong_format(path: &str) -> StartError {
    let bytes = head(path);
    let text = format!("exec {path}: exec format error");
    match elf(&bytes) {
        Some(Elf { machine, .. }) => {
            let (theirs, ours) = (machine_name(machine), std::env::consts::ARCH);
            denied(format!("{text}: the program is for {theirs}, this machine is {ours}")).with_hint(format!(
                "use an image for linux/{} (--platform), or set up an emulator with binfmt_misc",
                if ours == "x86_64" { "amd64" } else { "arm64" }
            ))
        }
        None if bytes.is_empty() => denied(format!("{text}: the file is empty or cannot be read")),
        None if bytes.is_ascii() || std::str::from_utf8(&bytes).is_ok() => {
            denied(format!("{text}: a script without a first line that names its interpreter"))
                .with_hint("add #!/bin/sh as its first line")
        }
        None => denied(format!("{text}: neither a script nor a program of this system")),
    }
}

/// The interpreter of a script, with a trailing carriage return if it has one.
fn shebang(bytes: &[u8]) -> Option<String> {
    let line = bytes.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let line = String::from_utf8_lossy(line);
    let line = line.trim_start_matches([' ', '\t']);
    Some(line.split([' ', '\t']).next()?.to_string())
}

/// What an ELF header says.
#[derive(Debug, PartialEq, Eq)]
struct Elf {
    machine: u16,
    interpreter: Option<String>,
}

fn elf(bytes: &[u8]) -> Option<Elf> {
    if !bytes.starts_with(b"\x7fELF") {
        return None;
    }
    let little = bytes.get(5)? != &2;
    let number = |at: usize, size: usize| -> Option<u64> {
        let field = bytes.get(at..at.checked_add(size)?)?;
        let fold = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
        Some(if little { field.iter().rev().fold(0, fold) } else { field.iter().fold(0, fold) })
    };
    let machine = number(18, 2)? as u16;
    let wide = bytes.get(4)? == &2;
    let (table, size, count) = if wide {
        (number(32, 8)?, number(54, 2)?, number(56, 2)?)
    } else {
        (number(28, 4)?, number(42, 2)?, number(44, 2)?)
    };
    let interpreter = (0..count.min(64)).find_map(|index| {
        let entry = usize::try_from(table.checked_add(index * size)?).ok()?;
        if number(entry, 4)? != 3 {
            return None;
        }
        let (offset, length) = if wide {
            (number(entry + 8, 8)?, number(entry + 32, 8)?)
        } else {
            (number(entry + 4, 4)?, number(entry + 16, 4)?)
        };
        let start = usize::try_from(offset).ok()?;
        let text = bytes.get(start..start.checked_add(usize::try_from(length).ok()?)?)?;
        let text = text.split(|byte| *byte == 0).next()?;
        Some(String::from_utf8_lossy(text).into_owned())
    });
    Some(Elf { machine, interpreter })
}

fn machine_name(machine: u16) -> String {
    match machine {
        3 => "x86 (32 bit)".into(),
        8 => "MIPS".into(),
        20 => "PowerPC".into(),
        21 => "ppc64le".into(),
        22 => "s390x".into(),
        40 => "arm (32 bit)".into(),
        62 => "x86_64".into(),
        183 => "aarch64".into(),
        243 => "riscv64".into(),
        258 => "loongarch64".into(),
        other => format!("machine type {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_is_searched_in_order() {
        assert_eq!(candidates("ls", "/bin::/sbin"), ["/bin/ls", "/sbin/ls"]);
        assert_eq!(candidates("./ls", "/bin"), ["./ls"]);
    }

    #[test]
    fn first_lines_name_interpreters() {
        assert_eq!(shebang(b"#!/bin/sh\nx").unwrap(), "/bin/sh");
        assert_eq!(shebang(b"#! /usr/bin/env python3\r\n").unwrap(), "/usr/bin/env");
        assert_eq!(shebang(b"#!/bin/sh\r\n").unwrap(), "/bin/sh\r");
        assert_eq!(shebang(b"x"), None);
    }

    #[test]
    fn elf_headers_are_read_without_trust() {
        let own = head("/proc/self/exe");
        let expected = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
        assert_eq!(elf(&own).unwrap().machine, expected);
        for end in 0..own.len().min(200) {
            elf(&own[..end]);
        }
        let mut hostile = own[..64].to_vec();
        hostile[32..40].fill(0xff);
        assert_eq!(elf(&hostile).unwrap().interpreter, None);
    }
}
