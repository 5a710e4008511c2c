#![allow(clippy::unwrap_used)]
use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn parse(text: &str) -> Result<DatabaseAddress, AddressError> {
    DatabaseAddress::parse_with(text, &|_| None)
}

/// Every host's place and port, the user and the database.
fn found(text: &str) -> (Vec<String>, String, String) {
    let address = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    let hosts = address.hosts.iter().map(|host| match &host.place {
        Place::Usual => format!("usual:{}", host.port),
        Place::Network(name) => format!("{name}:{}", host.port),
        Place::Socket(folder) => format!("{}:{}", folder.display(), host.port),
        Place::Given => "given".to_owned(),
    });
    let options = address.hosts[0].options(&address);
    let database = options.get_database().unwrap().to_owned();
    (hosts.collect(), options.get_username().to_owned(), database)
}

#[test]
fn the_forms_of_libpq_are_understood() {
    for (text, hosts, user, database) in [
        ("postgres://u@h/d", "h:5432", "u", "d"),
        ("postgresql://u:p@h:6000/d", "h:6000", "u", "d"),
        ("postgres://u@/d?host=/dir", "/dir:5432", "u", "d"),
        ("postgres:///d?host=/dir&user=u&port=7", "/dir:7", "u", "d"),
        ("postgresql://u@%2Fvar%2Frun/d", "/var/run:5432", "u", "d"),
        ("postgresql://u@%2Fvar%2Frun:7/d", "/var/run:7", "u", "d"),
        ("postgresql://u@[::1]:7/d", "::1:7", "u", "d"),
        ("postgresql://u@[2001:db8::1]/d", "2001:db8::1:5432", "u", "d"),
        ("postgresql://u@/d", "usual:5432", "u", "d"),
        ("postgresql://u@h", "h:5432", "u", "u"),
        ("postgres://u%40x:p%2F%40@h/d%20e", "h:5432", "u@x", "d e"),
        ("postgres://u@h/d?host=other", "other:5432", "u", "d"),
        ("postgres://u@h/d?hostaddr=10.0.0.1", "10.0.0.1:5432", "u", "d"),
        ("postgres://u:p@a:1,b:2,[::1]/d", "a:1 b:2 ::1:5432", "u", "d"),
        ("postgres://u@/d?host=a,b&port=7", "a:7 b:7", "u", "d"),
        ("host=/dir dbname=d user=u", "/dir:5432", "u", "d"),
        (r"host = h user='u\'s' dbname='a b' password=x\ y port=7", "h:7", "u's", "a b"),
        ("host=a,b port=1,2 user=u dbname=d target_session_attrs=any", "a:1 b:2", "u", "d"),
        ("hostaddr=::1 user=u dbname=d", "::1:5432", "u", "d"),
        (
            "postgres://u@h/d?client_encoding=UTF8&gssencmode=prefer&channel_binding=prefer",
            "h:5432",
            "u",
            "d",
        ),
        ("postgres://u@h/d?connect_timeout=3&fallback_application_name=x&ssl=true", "h:5432", "u", "d"),
    ] {
        let hosts = hosts.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(found(text), (hosts, user.to_owned(), database.to_owned()), "{text}");
    }
}

#[test]
fn what_is_not_understood_is_refused_by_name_and_without_secrets() {
    for (text, named) in [
        ("mysql://u:hunter2@h/d", "postgres://"),
        ("hunter2", "postgres://"),
        ("postgres://u:hunter2@h/d?sslmode=requird", "sslmode"),
        ("postgres://u:hunter2@h/d?sslmode=Require", "sslmode"),
        ("host=h password=hunter2 sslmode=full", "sslmode"),
        ("postgres://u:hunter2@h/d?ssl_mode=require", "ssl_mode"),
        ("postgres://u:hunter2@h/d?sslmod=require", "sslmod"),
        ("host=h pasword=hunter2", "pasword"),
        ("postgres://u:hunter2@h:port/d", "port"),
        ("postgres://u:hunter2@h:0/d", "port"),
        ("postgres://u:hunter2@h:70000/d", "port"),
        ("postgres://u:hunter2@a,b,c:1,d/d?port=1,2", "port has 2"),
        ("postgres://u:hunter2@[::1/d", "host"),
        ("postgres://u:hunter2@::1/d", "host"),
        ("postgres://u:hunter2/x@h/d", "%2F"),
        ("postgres://u:hunter2#x@h/d", "%23"),
        ("postgres://u:hunter2%zz@h/d", "password"),
        ("postgres://u:hunter2%00@h/d", "password"),
        ("postgres://u:hunter2@h/d?target_session_attrs=standby", "target_session_attrs"),
        ("postgres://u:hunter2@h/d?target_session_attrs=master", "target_session_attrs"),
        ("postgres://u:hunter2@h/d?load_balance_hosts=random", "load_balance_hosts"),
        ("postgres://u:hunter2@h/d?channel_binding=require", "channel_binding"),
        ("postgres://u:hunter2@h/d?gssencmode=require", "gssencmode"),
        ("postgres://u:hunter2@h/d?require_auth=scram-sha-256", "require_auth"),
        ("postgres://u:hunter2@h/d?service=x", "service"),
        ("postgres://u:hunter2@h/d?keepalives_idle=5", "keepalives_idle"),
        ("postgres://u:hunter2@h/d?sslrootcert=/nonexistent/ca.pem", "sslrootcert"),
        ("postgres://u:hunter2@h/d?sslcert=/nonexistent/c.pem", "sslkey"),
        ("postgres://u:hunter2@h/d?sslrootcert=system&sslmode=require", "sslmode"),
        ("postgres://u@h/d?passfile=/nonexistent/pass", "passfile"),
        ("postgres://u:hunter2@h/d?hostaddr=example.org", "hostaddr"),
        ("postgres://u:hunter2@h/d?connect_timeout=soon", "connect_timeout"),
        ("postgres://u:hunter2@h/d?options=-B%2016", "options"),
        ("postgres://u:hunter2@h/d?statement-cache-capacity=x", "statement-cache-capacity"),
        ("postgres://u:hunter2@@abstract/d?host=@abstract", "host"),
        ("host=h password='hunter2", "password has no closing quote"),
        ("host=h hunter2", "key=value"),
    ] {
        let error = parse(text).map(|address| format!("{address:?}")).unwrap_err().to_string();
        assert!(error.contains(named), "{text}: {error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn what_is_left_out_comes_from_the_environment_which_is_blamed_for_its_own_mistakes() {
    let variable = |name: &str| match name {
        "PGHOST" => Some("/dir".to_owned()),
        "PGSSLMODE" => Some("requird".to_owned()),
        _ => None,
    };
    let error = DatabaseAddress::parse_with("postgres://u@/d", &variable).unwrap_err().to_string();
    assert!(error.contains("PGSSLMODE"), "{error}");
    let address = DatabaseAddress::parse_with("postgres://u@/d?sslmode=prefer", &variable).unwrap();
    assert_eq!(address.hosts[0].place, Place::Socket("/dir".into()));
}

#[test]
fn a_password_comes_from_its_file_for_each_host() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pass");
    std::fs::write(&file, "a:5432:d:u:one\nlocalhost:5432:d:u:two\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let text = format!("host=a,/dir,b user=u dbname=d passfile={}", file.display());
    let passwords: Vec<_> = parse(&text).unwrap().hosts.into_iter().map(|host| host.password).collect();
    assert_eq!(passwords, [Some("one".to_owned()), Some("two".to_owned()), None]);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(parse(&text).unwrap_err().to_string().contains("0600"));
}

#[test]
fn several_hosts_are_searched_for_one_that_can_be_written_to() {
    let must_write = |text| parse(text).unwrap().must_write();
    assert!(must_write("host=a,b user=u"));
    assert!(must_write("host=a user=u target_session_attrs=read-write"));
    assert!(must_write("host=a user=u target_session_attrs=primary"));
    assert!(!must_write("host=a,b user=u target_session_attrs=any"));
    assert!(!must_write("host=a user=u"));
}

#[test]
fn nobody_is_asked_for_encryption_over_a_socket_and_an_authority_is_asked_for_names() {
    let mode = |text: &str| {
        let address = parse(text).unwrap();
        format!("{:?}", address.hosts[0].options(&address).get_ssl_mode())
    };
    assert_eq!(mode("host=/dir user=u sslmode=require"), "Disable");
    assert_eq!(mode("host=h user=u"), "Prefer");
    assert_eq!(mode("host=h user=u sslrootcert=system"), "VerifyFull");
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = format!("host=h user=u sslmode=require sslrootcert={}", file.path().display());
    assert_eq!(mode(&text), "VerifyCa");
}
