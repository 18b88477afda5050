//! Debian's `docker-registry`, or our own, on a port of its own.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::wait_for;

/// The password `secret` of the user `user`, as bcrypt with the least work.
const HTPASSWD: &str = "user:$2b$04$m9xNHIh3WBFYnaasP6Jbgu/Xr86d8l3WU8lJHlwn4VCxwrOF.8EjO\n";

/// A registry on the loopback interface. It ends when it is dropped.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    port: u16,
}

impl Registry {
    /// Starts one that keeps what it has in this folder.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start(folder: &Path) -> Self {
        Self::start_with(folder, "")
    }

    /// Starts one for `user` with the password `secret`.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn with_password(folder: &Path) -> Self {
        fs::create_dir_all(folder).expect("a folder can be made");
        let passwords = folder.join("htpasswd");
        fs::write(&passwords, HTPASSWD).expect("a file can be written");
        Self::start_with(
            folder,
            &format!("auth: {{htpasswd: {{realm: tests, path: {}}}}}\n", passwords.display()),
        )
    }

    /// Starts our own.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn of_yare(folder: &Path) -> Self {
        let port = free_port();
        let mut command = Command::new(crate::yare_binary());
        command.args(["registry", "serve", "--listen", &format!("127.0.0.1:{port}"), "--root"]);
        command.arg(folder.join("data"));
        Self::run(folder, command, port)
    }

    /// Starts our own for `user` with the password `secret`, who gets tokens for it.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn with_tokens(folder: &Path) -> Self {
        let port = free_port();
        fs::create_dir_all(folder).expect("a folder can be made");
        let (passwords, config) = (folder.join("htpasswd"), folder.join("config.toml"));
        fs::write(&passwords, HTPASSWD).expect("a file can be written");
        let (data, passwords) = (folder.join("data"), passwords.display());
        let text = format!(
            "root = {:?}\nlisten = [\"127.0.0.1:{port}\"]\n[auth]\nhtpasswd = \"{passwords}\"\n\
             [auth.token]\nservice = \"tests\"\n",
            data.display().to_string()
        );
        fs::write(&config, text).expect("a file can be written");
        let mut command = Command::new(crate::yare_binary());
        command.args(["registry", "serve", "--config"]).arg(&config);
        Self::run(folder, command, port)
    }

    fn start_with(folder: &Path, auth: &str) -> Self {
        let port = free_port();
        fs::create_dir_all(folder).expect("a folder can be made");
        let config = format!(
            "version: 0.1\nlog: {{level: warn}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: \"127.0.0.1:{port}\"}}\n{auth}",
            folder.join("data").display()
        );
        fs::write(folder.join("config.yml"), config).expect("a file can be written");
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(folder.join("config.yml"));
        Self::run(folder, command, port)
    }

    fn run(folder: &Path, mut command: Command, port: u16) -> Self {
        fs::create_dir_all(folder).expect("a folder can be made");
        let log = fs::File::create(folder.join("log")).expect("a file can be written");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        let child = child.expect("the registry is installed (apt-get install docker-registry)");
        let registry = Self { child, port };
        let listens = wait_for(Duration::from_secs(20), || TcpStream::connect(("127.0.0.1", port)).is_ok());
        assert!(listens, "the registry does not listen");
        registry
    }

    /// Its name in references.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

fn free_port() -> u16 {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    free.expect("there is a free port").port()
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
