//! Variables that no secret becomes.
//!
//! They say which code runs in the program's place or beside it, whom it talks to, or whom it believes. Whoever may store a secret
//! in a folder would decide that for the machines of all who run programs with it. After the list of what sudo removes from an
//! environment it keeps (`env_delete`, sudoers(5)), the list of what glibc removes for programs with more rights (ld.so(8)), and
//! what common interpreters, tools and libraries have besides. No such list is complete.

/// One name each, or, with a `*` at its end, all that begin so.
const REFUSED: &[&[&str]] = &[
    // What this command is told itself.
    &["DAYBOOK_*"],
    // Dynamic linkers, the C library's own, and its modules.
    &[
        "LD_*",
        "_RLD*",
        "LDR_*",
        "LIBPATH",
        "SHLIB_PATH",
        "DYLD_*",
        "GLIBC_TUNABLES",
        "MALLOC_*",
        "GCONV_PATH",
    ],
    &["GETCONF_DIR", "LOCPATH", "NLSPATH", "PATH_LOCALE", "LANG", "LANGUAGE", "LC_*", "TZDIR", "NIS_PATH"],
    // Names of hosts, and who vouches for them.
    &["LOCALDOMAIN", "RES_OPTIONS", "HOSTALIASES", "RESOLV_HOST_CONF", "AUTHSTATE", "KRB5*", "VAR_ACE"],
    &["USR_ACE", "DLC_ACE", "HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "RSYNC_PROXY", "ALL_PROXY", "NO_PROXY"],
    &["SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE", "CURL_CA_BUNDLE", "CURL_HOME", "REQUESTS_CA_BUNDLE"],
    &["OPENSSL_*", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "GRPC_PROXY", "AWS_CA_BUNDLE"],
    // Where programs, their settings and the user are.
    &["PATH", "HOME", "PWD", "OLDPWD", "SHELL", "USER", "LOGNAME", "TERM", "TMPDIR", "TEMP", "TMP", "XDG_*"],
    &["TERMINFO", "TERMINFO_DIRS", "TERMPATH", "TERMCAP", "CDPATH", "FPATH", "ZDOTDIR"],
    // Shells.
    &["IFS", "ENV", "BASH_*", "BASHOPTS", "SHELLOPTS", "GLOBIGNORE", "PROMPT_COMMAND", "PS0", "PS1", "PS2"],
    &["PS3", "PS4", "NULLCMD", "READNULLCMD", "TMPPREFIX", "HISTFILE"],
    // Interpreters and runtimes.
    &["PYTHON*", "PERL*", "RUBY*", "GEM_HOME", "GEM_PATH", "BUNDLE_GEMFILE", "BUNDLE_PATH", "NODE_OPTIONS"],
    &["NODE_PATH", "NODE_EXTRA_CA_CERTS", "NODE_TLS_REJECT_UNAUTHORIZED", "NODE_REPL_*", "NPM_CONFIG_*"],
    &["JAVA_HOME", "JAVA_OPTS", "JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_*", "CLASSPATH", "CATALINA_OPTS"],
    &["MAVEN_OPTS", "GRADLE_OPTS", "SBT_OPTS", "JRUBY_OPTS", "DOTNET_*", "COMPLUS_*", "CORECLR_*", "COR_*"],
    &[
        "PHPRC",
        "PHP_INI_SCAN_DIR",
        "LUA_*",
        "TCLLIBPATH",
        "TCL_LIBRARY",
        "R_HOME",
        "R_PROFILE*",
        "R_ENVIRON*",
    ],
    &["R_LIBS*", "ERL_*", "ELIXIR_ERL_OPTIONS", "JULIA_*", "GUILE_*", "GHCRTS", "DENO_*", "BUN_*"],
    // Compilers and builds.
    &["RUSTC*", "RUSTDOC", "RUSTFLAGS", "CARGO_HOME", "CARGO_BUILD_*", "CARGO_TARGET_*", "GOFLAGS", "GOENV"],
    &[
        "GOPATH",
        "GOROOT",
        "GOPROXY",
        "GOTOOLCHAIN",
        "CC",
        "CXX",
        "LD",
        "AR",
        "GCC_EXEC_PREFIX",
        "COMPILER_PATH",
    ],
    &["LIBRARY_PATH", "CPATH", "PKG_CONFIG_*", "MAKEFLAGS", "GNUMAKEFLAGS", "MFLAGS", "MAKEFILES"],
    // Tools that start others by name, or load their settings from where they are told.
    &["EDITOR", "VISUAL", "PAGER", "MANPAGER", "BROWSER", "LESSOPEN", "LESSCLOSE", "GIT_*", "SSH_ASKPASS*"],
    &["SUDO_*", "SSH_AUTH_SOCK", "RSYNC_RSH", "CVS_RSH", "SVN_SSH", "VIMINIT", "EXINIT", "EMACSLOADPATH"],
    &["KUBECONFIG", "AWS_CONFIG_FILE", "DOCKER_HOST", "DOCKER_CONFIG", "PIP_CONFIG_FILE", "PSQLRC"],
    &["GTK_MODULES", "GTK_PATH", "GIO_*", "GST_PLUGIN_*", "QT_*"],
];

/// Whether no secret may become the variable of this name.
pub(super) fn is_refused(name: &str) -> bool {
    let is_meant = |refused: &&str| match refused.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => name == *refused,
    };
    REFUSED.iter().copied().flatten().any(is_meant)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_other_code_or_believes_others_is_refused() {
        for name in [
            "BASH_ENV",
            "ENV",
            "IFS",
            "SHELLOPTS",
            "BASHOPTS",
            "PS4",
            "PROMPT_COMMAND",
            "NODE_OPTIONS",
            "PYTHONPATH",
            "PYTHONHOME",
            "PYTHONSTARTUP",
            "PERL5OPT",
            "PERL5LIB",
            "PERLLIB",
            "RUBYOPT",
            "RUBYLIB",
            "JAVA_TOOL_OPTIONS",
            "_JAVA_OPTIONS",
            "JDK_JAVA_OPTIONS",
            "GCONV_PATH",
            "GIT_SSH_COMMAND",
            "GIT_CONFIG_GLOBAL",
            "LD_PRELOAD",
            "LD_AUDIT",
            "DYLD_INSERT_LIBRARIES",
            "PATH",
            "HOME",
            "LOCPATH",
            "NLSPATH",
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "ALL_PROXY",
            "SSL_CERT_FILE",
            "SSL_CERT_DIR",
            "DAYBOOK_URL",
        ] {
            assert!(is_refused(name), "{name}");
        }
    }

    #[test]
    fn what_programs_call_their_passwords_is_not() {
        for name in [
            "DATABASE_URL",
            "PGPASSWORD",
            "STRIPE_API_KEY",
            "AWS_SECRET_ACCESS_KEY",
            "NODE_AUTH_TOKEN",
            "CARGO_REGISTRY_TOKEN",
            "PATH_X",
            "HOME_PAGE_KEY",
            "ENVIRONMENT",
            "API_KEY",
            "_2FA_SEED",
            "LDAP_PASSWORD",
            "USER_PASSWORD",
            "CORS_KEY",
            "TERMINAL_KEY",
        ] {
            assert!(!is_refused(name), "{name}");
        }
    }

    #[test]
    fn every_entry_can_be_met() {
        for entry in REFUSED.iter().copied().flatten() {
            let name = entry.strip_suffix('*').unwrap_or(entry);
            let fits = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
            assert!(name.len() >= 2 && name.chars().all(fits), "{entry}");
        }
    }
}
