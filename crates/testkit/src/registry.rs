//! Debian's `docker-registry`, or our own, on a port of its own.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::{free_port, wait_for};

/// The password `secret` of the user `user`, as bcrypt with the least work.
const HTPASSWD: &str = "user:$2b$04$m9xNHIh3WBFYnaasP6Jbgu/Xr86d8l3WU8lJHlwn4VCxwrOF.8EjO\n";

/// A program that serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// Debian's `docker-registry`.
    Debian,
    /// Our own.
    Yare,
}

impl Server {
    /// Starts one that keeps what it has in this folder.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start(self, folder: &Path) -> Registry {
        self.start_for(Access::Everybody, folder)
    }

    /// Starts one for `user` with the password `secret`.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn with_password(self, folder: &Path) -> Registry {
        self.start_for(Access::Password, folder)
    }

    fn start_for(self, access: Access, folder: &Path) -> Registry {
        match self {
            Self::Debian => Registry::of_debian(folder, access == Access::Password),
            Self::Yare => Registry::of_yare_with(folder, Setup { access, has_tls: false }),
        }
    }
}

/// Who may do everything; others nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Whoever comes.
    Everybody,
    /// `user`, who sends the password `secret` each time.
    Password,
    /// `user`, who gets tokens for the password.
    Tokens,
}

/// How our own is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setup {
    /// Who may use it.
    pub access: Access,
    /// Whether it speaks TLS, with a certificate of the authority in `certs/ca.crt` of its folder.
    pub has_tls: bool,
}

/// A registry on the loopback interface. It ends when it is dropped.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    port: u16,
}

impl Registry {
    /// Starts Debian's for everybody.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start(folder: &Path) -> Self {
        Server::Debian.start(folder)
    }

    /// Starts Debian's for `user` with the password `secret`.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn with_password(folder: &Path) -> Self {
        Server::Debian.with_password(folder)
    }

    /// Starts our own for everybody.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn of_yare(folder: &Path) -> Self {
        Server::Yare.start(folder)
    }

    /// Starts our own for `user` with the password `secret`, who gets tokens for it.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn with_tokens(folder: &Path) -> Self {
        Self::of_yare_with(folder, Setup { access: Access::Tokens, has_tls: false })
    }

    /// Starts our own.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn of_yare_with(folder: &Path, setup: Setup) -> Self {
        fs::create_dir_all(folder).expect("a folder can be made");
        let place = |name: &str| folder.join(name).display().to_string();
        let mut config = String::new();
        if setup.has_tls {
            crate::authority::certify(folder);
            config +=
                &format!("[tls]\ncertificate = {:?}\nkey = {:?}\n", place("server.crt"), place("server.key"));
        }
        if setup.access != Access::Everybody {
            config += &format!("[auth]\nhtpasswd = {:?}\n", passwords(folder));
        }
        if setup.access == Access::Tokens {
            config += "[auth.token]\nservice = \"tests\"\n";
        }
        Self::configured(folder, &config)
    }

    /// Starts our own with these lines in its configuration.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn configured(folder: &Path, lines: &str) -> Self {
        let port = free_port();
        fs::create_dir_all(folder).expect("a folder can be made");
        let place = |name: &str| folder.join(name).display().to_string();
        let config = format!("root = {:?}\nlisten = [\"127.0.0.1:{port}\"]\n{lines}", place("data"));
        fs::write(place("config.toml"), config).expect("a file can be written");
        let mut command = Command::new(crate::yare_binary());
        command.args(["registry", "serve", "--config", &place("config.toml")]);
        Self::run(folder, command, port)
    }

    fn of_debian(folder: &Path, has_password: bool) -> Self {
        let port = free_port();
        fs::create_dir_all(folder).expect("a folder can be made");
        let auth = if has_password {
            format!("auth: {{htpasswd: {{realm: tests, path: {}}}}}\n", passwords(folder))
        } else {
            String::new()
        };
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
        let log = fs::File::create(folder.join("log")).expect("a file can be written");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        let child = child.expect("the registry is installed (apt-get install docker-registry)");
        let registry = Self { child, port };
        let listens = wait_for(Duration::from_secs(60), || TcpStream::connect(("127.0.0.1", port)).is_ok());
        assert!(listens, "the registry does not listen");
        registry
    }

    /// Its name in references.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

/// Writes the file of passwords; its path.
fn passwords(folder: &Path) -> String {
    let path = folder.join("htpasswd");
    fs::write(&path, HTPASSWD).expect("a file can be written");
    path.display().to_string()
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
