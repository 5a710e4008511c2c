//! Wrong clocks for real programs: `daybook`, and PostgreSQL.
//!
//! A small library, made with the C compiler that Rust needs anyway, is preloaded into the program and shifts its time of day by what a file
//! says. The file may be changed while the program runs: then its clock is set.

use std::fs;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCE: &str = include_str!("false_clock.c");

/// A clock that shows a wrong time.
#[derive(Debug)]
pub struct FalseClock {
    library: PathBuf,
    file: PathBuf,
}

impl FalseClock {
    /// A clock that is so many seconds ahead (negative: behind). Its files are in a folder of its own in `folder`, named `name`, which the
    /// programs must be able to read.
    ///
    /// # Panics
    /// When there is no C compiler.
    #[must_use]
    pub fn new(folder: &Path, name: &str, ahead: i64) -> Self {
        let folder = folder.join(format!("clock-{name}"));
        fs::create_dir(&folder).unwrap();
        let (source, library) = (folder.join("false_clock.c"), folder.join("false_clock.so"));
        fs::write(&source, SOURCE).unwrap();
        let mut compile = Command::new("cc");
        compile.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source);
        assert!(compile.status().expect("the C compiler that Rust links with").success(), "{compile:?}");
        let clock = Self { library, file: folder.join("ahead") };
        fs::write(&clock.file, ahead.to_ne_bytes()).unwrap();
        clock
    }

    /// Sets it, for programs that run as well.
    ///
    /// # Panics
    /// When its file is gone.
    pub fn set(&self, ahead: i64) {
        // In place and at once: programs have the file mapped.
        let file = fs::OpenOptions::new().write(true).open(&self.file).unwrap();
        file.write_all_at(&ahead.to_ne_bytes(), 0).unwrap();
    }

    /// What a program's environment must have to go by it.
    #[must_use]
    pub fn environment(&self) -> [(&'static str, String); 2] {
        let text = |path: &Path| path.to_str().expect("paths of tests are text").to_owned();
        [("LD_PRELOAD", text(&self.library)), ("DAYBOOK_FALSE_CLOCK", text(&self.file))]
    }

    /// A value for `PATH` with which a private server goes by this clock: a folder with PostgreSQL's programs in front of it.
    ///
    /// # Panics
    /// When there is no PostgreSQL on this machine.
    #[must_use]
    pub fn path_of_postgres(&self) -> String {
        let real = ledger::private::find_programs().unwrap();
        let folder = self.file.with_file_name("bin");
        fs::create_dir(&folder).unwrap();
        let [(preload, library), (variable, file)] = self.environment();
        for program in fs::read_dir(&real).unwrap() {
            let name = program.unwrap().file_name();
            let (name, real) = (name.to_str().unwrap(), real.join(&name));
            let with = match name {
                "postgres" => format!("env {preload}='{library}' {variable}='{file}' "),
                _ => String::new(),
            };
            let script = folder.join(name);
            fs::write(&script, format!("#!/bin/sh\nexec {with}'{}' \"$@\"\n", real.display())).unwrap();
            fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        }
        format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default())
    }
}
