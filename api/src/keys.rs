//! The keys Daybook works with: those configured, or in development generated ones kept in `DATA_DIR/keys`.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use zeroize::Zeroize;

use crate::config::{Hidden, MIN_JWT_SECRET_CHARS, Settings};
use crate::tokens::{RandomError, random};

/// No key file is anywhere near this long; more is not read.
const MAX_KEY_FILE_BYTES: u64 = 4096;

/// The keys in use. `Debug` hides them.
#[derive(Debug, Clone)]
pub struct Keys {
    /// Signs access tokens.
    pub jwt_secret: Hidden,
    /// Still verifies them.
    pub jwt_secret_previous: Option<Hidden>,
    /// Seals.
    pub encryption_key: EncryptionKey,
    /// Still opens.
    pub encryption_key_previous: Option<EncryptionKey>,
}

/// 32 bytes of key. `Debug` hides them and they are overwritten when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct EncryptionKey([u8; 32]);

impl EncryptionKey {
    /// The key itself.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for EncryptionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[hidden]")
    }
}

impl Drop for EncryptionKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// Why the keys cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// A folder or file could not be made, read or written.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Others than the owner have a right on it.
    #[error("{path} is open to others (mode {mode:o}): make it yours alone with chmod {wanted:o}")]
    Permissions {
        /// The file or folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// What they should be.
        wanted: u32,
    },
    /// The file holds no key.
    #[error(
        "{path} does not hold {expected}: restore it from a backup; with it goes what it sealed or signed"
    )]
    Content {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
    },
    /// There is no file, and a new key would not do.
    #[error(
        "{path} is missing, and a new key does not open what this database holds: restore it from a backup, or set ENCRYPTION_KEY"
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// No random bytes.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// The configured key is not a key. `Settings::load` refuses this before.
    #[error("{0} is not 32 bytes in base64")]
    Setting(&'static str),
}

/// The configured keys; those missing are read from `data_dir/keys`, and generated there if they are not there either.
///
/// Two processes may do this at the same instant: one file wins and both read it. `Settings::load` has already refused
/// production without its keys. Where something is `sealed` already, no encryption key is generated: it would not open that.
///
/// # Errors
/// When the folder or a file in it cannot be used, is open to others, or holds no key; or is missing and cannot be replaced.
pub fn load_or_generate(data_dir: &Path, settings: &Settings, sealed: bool) -> Result<Keys, KeysError> {
    let folder = data_dir.join("keys");
    let encryption_key = match &settings.encryption_key {
        Some(text) => text.clone(),
        None => {
            let path = folder.join("encryption_key");
            if sealed && !path.exists() {
                return Err(KeysError::Missing { path });
            }
            kept(&folder, "encryption_key", is_encryption_key, "32 bytes in base64")?
        }
    };
    let jwt_secret = match &settings.jwt_secret {
        Some(secret) => secret.clone(),
        None => kept(&folder, "jwt_secret", is_jwt_secret, "32 characters or more")?,
    };
    assemble(settings, jwt_secret, &encryption_key)
}

fn assemble(settings: &Settings, jwt_secret: Hidden, encryption_key: &Hidden) -> Result<Keys, KeysError> {
    let previous = settings.encryption_key_previous.as_ref();
    Ok(Keys {
        jwt_secret,
        jwt_secret_previous: settings.jwt_secret_previous.clone(),
        encryption_key: decoded(encryption_key, "ENCRYPTION_KEY")?,
        encryption_key_previous: previous.map(|text| decoded(text, "ENCRYPTION_KEY_PREVIOUS")).transpose()?,
    })
}

/// As [`load_or_generate`], but makes nothing. Where a key is nowhere and nothing is `sealed`, one stands in that is kept nowhere: a start
/// would make one.
///
/// # Errors
/// As [`load_or_generate`].
pub fn load(data_dir: &Path, settings: &Settings, sealed: bool) -> Result<Keys, KeysError> {
    let folder = data_dir.join("keys");
    let found = |name: &str, valid: fn(&str) -> bool, expected| {
        let path = folder.join(name);
        match fs::metadata(&folder) {
            Ok(metadata) => owner_only(&folder, &metadata.permissions(), 0o700)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("look at", &folder)(error)),
        }
        match read_key(&path)? {
            Some(key) if !valid(key.expose()) => Err(KeysError::Content { path, expected }),
            found => Ok(found),
        }
    };
    let encryption_key = match &settings.encryption_key {
        Some(text) => text.clone(),
        None => match found("encryption_key", is_encryption_key, "32 bytes in base64")? {
            Some(key) => key,
            None if sealed => return Err(KeysError::Missing { path: folder.join("encryption_key") }),
            None => new_key()?,
        },
    };
    let jwt_secret = match &settings.jwt_secret {
        Some(secret) => secret.clone(),
        None => found("jwt_secret", is_jwt_secret, "32 characters or more")?.map_or_else(new_key, Ok)?,
    };
    assemble(settings, jwt_secret, &encryption_key)
}

/// Two new keys as lines for an environment file.
///
/// # Errors
/// When the operating system has no random bytes.
pub fn generate() -> Result<String, RandomError> {
    Ok(format!("JWT_SECRET={}\nENCRYPTION_KEY={}\n", new_key()?.expose(), new_key()?.expose()))
}

/// 32 bytes from base64, standard or URL-safe, with or without padding.
pub(crate) fn decode_encryption_key(text: &str) -> Option<[u8; 32]> {
    let unpadded = text.trim_end_matches('=');
    if text.len() - unpadded.len() > 1 {
        return None;
    }
    let url_safe = unpadded.replace('+', "-").replace('/', "_");
    let mut bytes = URL_SAFE_NO_PAD.decode(url_safe).ok()?;
    let key = bytes.as_slice().try_into().ok();
    bytes.zeroize();
    key
}

fn decoded(text: &Hidden, name: &'static str) -> Result<EncryptionKey, KeysError> {
    decode_encryption_key(text.expose()).map(EncryptionKey).ok_or(KeysError::Setting(name))
}

fn is_jwt_secret(text: &str) -> bool {
    text.chars().count() >= MIN_JWT_SECRET_CHARS
}

fn is_encryption_key(text: &str) -> bool {
    decode_encryption_key(text).is_some()
}

fn new_key() -> Result<Hidden, RandomError> {
    let mut bytes = random::<32>()?;
    let text = Hidden::new(STANDARD.encode(bytes));
    bytes.zeroize();
    Ok(text)
}

/// The key in this file; made first if there is none.
fn kept(
    folder: &Path,
    name: &str,
    valid: fn(&str) -> bool,
    expected: &'static str,
) -> Result<Hidden, KeysError> {
    make_folder(folder)?;
    let path = folder.join(name);
    let key = match read_key(&path)? {
        Some(key) => key,
        None => {
            write_once(folder, &path)?;
            // Ours or the one of a process that was faster.
            read_key(&path)?.ok_or_else(|| KeysError::Content { path: path.clone(), expected })?
        }
    };
    if valid(key.expose()) { Ok(key) } else { Err(KeysError::Content { path, expected }) }
}

fn make_folder(folder: &Path) -> Result<(), KeysError> {
    if let Some(parent) = folder.parent() {
        fs::create_dir_all(parent).map_err(io_error("create", parent))?;
    }
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made.map_err(io_error("create", folder))?,
    }
    let permissions = fs::metadata(folder).map_err(io_error("look at", folder))?.permissions();
    owner_only(folder, &permissions, 0o700)
}

fn read_key(path: &Path) -> Result<Option<Hidden>, KeysError> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(io_error("open", path))?,
    };
    owner_only(path, &file.metadata().map_err(io_error("look at", path))?.permissions(), 0o600)?;
    let mut text = String::new();
    file.take(MAX_KEY_FILE_BYTES).read_to_string(&mut text).map_err(io_error("read", path))?;
    let key = Hidden::new(text.trim_end_matches(['\r', '\n']));
    text.zeroize();
    Ok(Some(key))
}

fn owner_only(path: &Path, permissions: &Permissions, wanted: u32) -> Result<(), KeysError> {
    let mode = permissions.mode() & 0o777;
    if mode & 0o077 == 0 {
        Ok(())
    } else {
        Err(KeysError::Permissions { path: path.to_owned(), mode, wanted })
    }
}

/// Puts a new key at `path` unless something is there by then. A crash before the link leaves only an unused file behind;
/// after it the key is whole, because the file was synced before it got its name.
fn write_once(folder: &Path, path: &Path) -> Result<(), KeysError> {
    let draft = folder.join(format!(".new-{}", uuid::Uuid::now_v7()));
    let written = write_synced(&draft, &new_key()?).map_err(io_error("write", &draft));
    let linked = written.and_then(|()| match fs::hard_link(&draft, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map_err(io_error("create", path)),
    });
    // Whether the draft goes or stays changes nothing; a failure above is the one to report.
    let _ = fs::remove_file(&draft);
    linked?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(io_error("sync", folder))
}

fn write_synced(path: &Path, key: &Hidden) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(key.expose().as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KeysError {
    let path = path.to_owned();
    move |source| KeysError::Io { action, path, source }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::collections::BTreeSet;
    use std::sync::Barrier;

    use base64::engine::general_purpose::URL_SAFE;

    use super::*;
    use crate::config::Sources;

    fn settings(environment: &[(&str, &str)]) -> Settings {
        let environment = environment.iter().map(|(name, text)| ((*name).into(), (*text).into())).collect();
        Settings::load(&Sources { environment, file: "/nonexistent".into() }).unwrap()
    }

    fn generated(folder: &Path) -> Result<Keys, KeysError> {
        load_or_generate(folder, &settings(&[]), false)
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn generated_keys_are_kept_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("not/yet/there");
        let first = generated(&data).unwrap();
        let second = generated(&data).unwrap();
        assert_eq!(first.jwt_secret, second.jwt_secret);
        assert_eq!(first.encryption_key, second.encryption_key);
        assert_ne!(first.jwt_secret.expose().as_bytes(), first.encryption_key.expose());
        assert_eq!(mode(&data.join("keys")), 0o700);
        let files: BTreeSet<_> =
            fs::read_dir(data.join("keys")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(files, BTreeSet::from(["encryption_key".into(), "jwt_secret".into()]));
        assert!(files.iter().all(|name| mode(&data.join("keys").join(name)) == 0o600));
    }

    #[test]
    fn starting_at_the_same_instant_gives_everyone_the_same_keys() {
        let folder = tempfile::tempdir().unwrap();
        let barrier = Barrier::new(8);
        let keys: Vec<Keys> = std::thread::scope(|scope| {
            let start = || {
                barrier.wait();
                generated(folder.path()).unwrap()
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(keys.iter().all(|other| other.jwt_secret == keys[0].jwt_secret));
        assert!(keys.iter().all(|other| other.encryption_key == keys[0].encryption_key));
        assert_eq!(fs::read_dir(folder.path().join("keys")).unwrap().count(), 2);
    }

    #[test]
    fn configured_keys_leave_no_files() {
        let folder = tempfile::tempdir().unwrap();
        let secret = "configured, with more than thirty-two characters";
        let key = STANDARD.encode([7; 32]);
        let old = URL_SAFE_NO_PAD.encode([255; 32]);
        let settings =
            settings(&[("JWT_SECRET", secret), ("ENCRYPTION_KEY", &key), ("ENCRYPTION_KEY_PREVIOUS", &old)]);
        let keys = load_or_generate(folder.path(), &settings, true).unwrap();
        assert_eq!(keys.jwt_secret.expose(), secret);
        assert_eq!(keys.encryption_key.expose(), &[7; 32]);
        assert_eq!(keys.encryption_key_previous.unwrap().expose(), &[255; 32]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_key_open_to_others_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        generated(folder.path()).unwrap();
        let file = folder.path().join("keys/encryption_key");
        fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        let error = generated(folder.path()).unwrap_err();
        assert!(matches!(error, KeysError::Permissions { mode: 0o640, .. }), "{error}");
        assert!(error.to_string().contains("chmod 600"), "{error}");
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(folder.path().join("keys"), Permissions::from_mode(0o755)).unwrap();
        assert!(generated(folder.path()).unwrap_err().to_string().contains("chmod 700"));
    }

    #[test]
    fn a_damaged_key_is_refused_and_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        generated(folder.path()).unwrap();
        for name in ["encryption_key", "jwt_secret"] {
            let file = folder.path().join("keys").join(name);
            let good = fs::read(&file).unwrap();
            for damaged in ["", "c2hvcnQ=\n"] {
                fs::write(&file, damaged).unwrap();
                let error = generated(folder.path()).unwrap_err();
                assert!(matches!(error, KeysError::Content { .. }), "{error}");
                assert_eq!(fs::read_to_string(&file).unwrap(), damaged);
            }
            fs::write(&file, good).unwrap();
        }
    }

    #[test]
    fn a_lost_key_is_not_replaced_where_something_was_sealed() {
        let folder = tempfile::tempdir().unwrap();
        let error = load_or_generate(folder.path(), &settings(&[]), true).unwrap_err();
        assert!(matches!(error, KeysError::Missing { .. }), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let first = generated(folder.path()).unwrap();
        let again = load_or_generate(folder.path(), &settings(&[]), true).unwrap();
        assert_eq!(first.encryption_key, again.encryption_key);
    }

    #[test]
    fn printed_keys_are_accepted_as_settings() {
        let text = generate().unwrap();
        let pairs: Vec<_> = text.lines().map(|line| line.split_once('=').unwrap()).collect();
        assert_eq!(pairs.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["JWT_SECRET", "ENCRYPTION_KEY"]);
        let settings = settings(&pairs);
        assert_eq!(settings.encryption_key.unwrap().expose(), pairs[1].1);
        assert_ne!(text, generate().unwrap());
    }

    #[test]
    fn debug_hides_the_keys() {
        let folder = tempfile::tempdir().unwrap();
        let keys = generated(folder.path()).unwrap();
        assert!(!format!("{keys:?}").contains(keys.jwt_secret.expose()));
        assert!(format!("{keys:?}").contains("[hidden]"));
    }

    #[test]
    fn base64_of_another_length_or_with_odd_padding_is_no_key() {
        assert!(decode_encryption_key(&URL_SAFE.encode([1; 32])).is_some());
        for bytes in [0, 16, 31, 33] {
            assert!(decode_encryption_key(&STANDARD.encode(vec![1; bytes])).is_none(), "{bytes}");
        }
        assert!(decode_encryption_key(&format!("{}==", URL_SAFE_NO_PAD.encode([1; 32]))).is_none());
        assert!(decode_encryption_key("").is_none());
    }
}
