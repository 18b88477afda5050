//! `yare daemon --install`: systemd units for this binary.

use std::path::Path;
use yare_errdefs::{Error, Result};

const UNITS: &str = "/etc/systemd/system";

/// Writes `yare.service` and `yare.socket`; the other flags given go into the service.
pub(super) fn install(args: &[String]) -> Result<()> {
    let binary = std::env::current_exe()
        .map_err(|error| Error::internal("cannot find this binary").caused_by(error))?;
    let flags: Vec<&str> = args
        .iter()
        .map(String::as_str)
        .filter(|arg| !matches!(*arg, "--install" | "--install=true"))
        .collect();
    let service = service(&binary, &flags)?;
    let units = Path::new(UNITS);
    for (name, text) in [("yare.service", service.as_str()), ("yare.socket", SOCKET)] {
        let path = units.join(name);
        std::fs::write(&path, text).map_err(|error| {
            Error::internal(format!("cannot write {}", path.display()))
                .caused_by(error)
                .with_hint("run as root on a host with systemd")
        })?;
        crate::say(&format!("wrote {}\n", path.display()));
    }
    crate::say("start it with: systemctl daemon-reload && systemctl enable --now yare.socket yare.service\n");
    Ok(())
}

fn service(binary: &Path, flags: &[&str]) -> Result<String> {
    let mut command = vec![quoted(&binary.display().to_string())?, "daemon".to_owned()];
    if !flags.iter().any(|flag| flag.starts_with("-H") || flag.starts_with("--host")) {
        command.push("-H fd://".to_owned());
    }
    for flag in flags {
        command.push(quoted(flag)?);
    }
    // KillMode=process: systemd ends the engine alone. The containers are not its children's children by
    // accident, but by promise they survive it.
    Ok(format!(
        "[Unit]\nDescription=Yare container engine\nAfter=network-online.target yare.socket\nWants=network-online.target\n\
         Requires=yare.socket\n\n[Service]\nType=notify\nExecStart={}\nRestart=always\nRestartSec=1\nKillMode=process\n\
         Delegate=yes\nLimitNOFILE=1048576\nLimitNPROC=infinity\nTasksMax=infinity\nOOMScoreAdjust=-500\n\n[Install]\n\
         WantedBy=multi-user.target\n",
        command.join(" ")
    ))
}

const SOCKET: &str = "[Unit]\nDescription=Yare container engine API\n\n[Socket]\nListenStream=/run/yare/yare.sock\n\
                      SocketMode=0660\nSocketUser=root\nSocketGroup=root\n\n[Install]\nWantedBy=sockets.target\n";

/// A word of a unit file's command line.
fn quoted(word: &str) -> Result<String> {
    if word.contains(['\n', '\0']) {
        return Err(Error::invalid(format!("{word:?} cannot stand in a unit file")));
    }
    let escaped = word.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    Ok(if escaped.contains(char::is_whitespace) { format!("\"{escaped}\"") } else { escaped })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_go_into_the_unit_quoted() {
        let unit = service(Path::new("/usr/local/bin/yare"), &["--data-root", "/my data/100%"]).unwrap();
        assert!(
            unit.contains("ExecStart=/usr/local/bin/yare daemon -H fd:// --data-root \"/my data/100%%\"\n"),
            "{unit}"
        );
        assert!(unit.contains("KillMode=process"));
        assert!(service(Path::new("/y"), &["a\nb"]).is_err());
    }
}
