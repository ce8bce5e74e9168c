use super::*;

fn parse_all(url: &str) -> Result<Vec<ConnInfo>, CaptureError> {
    super::parse(&url.to_owned().into())
}

fn parse(url: &str) -> Result<ConnInfo, CaptureError> {
    parse_all(url).map(|mut all| all.remove(0))
}

fn refusal(url: &str) -> String {
    parse(url).err().unwrap_or_else(|| panic!("{url} was accepted")).to_string()
}

#[test]
fn a_remote_host_must_prove_who_it_is_and_this_machine_need_not() {
    for (url, expected) in [
        ("postgres://u:p@db.example.com/d", SslMode::VerifyFull),
        ("host=db.example.com user=u", SslMode::VerifyFull),
        ("postgres://u@10.0.0.1/d", SslMode::VerifyFull),
        ("postgres://u@localhost/d", SslMode::Prefer),
        ("postgres://u@127.0.0.1:5433/d", SslMode::Prefer),
        ("postgres://u@localhost/d?sslrootcert=/ca.pem", SslMode::VerifyFull),
        ("postgres://u@h/d?sslmode=disable", SslMode::Disable),
        ("postgres://u@h/d?sslmode=require", SslMode::Require),
        ("postgres://u@h/d?ssl=true", SslMode::Require),
        ("postgres://u@h/d?sslmode=require&sslrootcert=/ca.pem", SslMode::VerifyCa),
        ("postgres://u@localhost/d?sslrootcert=system", SslMode::VerifyFull),
    ] {
        assert_eq!(parse(url).unwrap().ssl_mode, expected, "{url}");
    }
}

#[test]
fn both_forms_of_a_connection_string_mean_the_same() {
    let url = parse("postgres://u%40x:p%27%5C%20@h:5433/d%2F1?sslmode=require&application_name=x").unwrap();
    let pairs = parse(r"host=h port = 5433 user='u@x' password='p\'\\ ' dbname=d/1 sslmode='require'").unwrap();
    for info in [&url, &pairs] {
        assert_eq!(info.server(), "h:5433/d/1");
        assert_eq!(info.user, "u@x");
        assert_eq!(info.config.get_password(), Some(br"p'\ ".as_slice()));
    }
}

#[test]
fn several_hosts_are_read_in_both_forms_with_their_ports() {
    for (url, expected) in [
        ("postgres://u@h1:5432,h2:5433/d", &["h1:5432/d", "h2:5433/d"][..]),
        ("postgres://u@h1,h2:5433/d", &["h1:5432/d", "h2:5433/d"]),
        ("postgres://u@h1,h2/d?port=6000", &["h1:6000/d", "h2:6000/d"]),
        ("postgres://u@[::1]:5433,[fe80::2]/d", &["::1:5433/d", "fe80::2:5432/d"]),
        ("postgres:///d?user=u&host=h1%2Ch2&port=1%2C2", &["h1:1/d", "h2:2/d"]),
        ("host=h1,h2 port=1,2 user=u dbname=d", &["h1:1/d", "h2:2/d"]),
        ("host=h1,h2 port=7 user=u dbname=d", &["h1:7/d", "h2:7/d"]),
        ("hostaddr=10.0.0.1,10.0.0.2 user=u dbname=d", &["10.0.0.1:5432/d", "10.0.0.2:5432/d"]),
        ("host=h1,/run/x user=u dbname=d", &["h1:5432/d", "/run/x:5432/d"]),
        ("postgres://u@h/d", &["h:5432/d"]),
        ("postgres://u@h/d?port=7", &["h:7/d"]),
    ] {
        let servers: Vec<String> = parse_all(url).unwrap().iter().map(ConnInfo::server).collect();
        assert_eq!(servers, expected, "{url}");
    }
    assert!(refusal("host=a,b,c port=1,2 user=u").contains("different lengths"));
    assert!(refusal("host=a,b target_session_attrs=writable").contains("target_session_attrs"));
}

#[test]
fn several_hosts_are_searched_for_the_primary_and_each_has_its_own_tls() {
    let targets = |url: &str| parse_all(url).unwrap().iter().map(|info| info.target).collect::<Vec<_>>();
    assert_eq!(targets("postgres://u@h1,h2/d"), [TargetServer::ReadWrite; 2]);
    assert_eq!(targets("postgres://u@h1,h2/d?target_session_attrs=any"), [TargetServer::Any; 2]);
    assert_eq!(targets("postgres://u@h1/d"), [TargetServer::Any]);
    assert_eq!(targets("postgres://u@h1/d?target_session_attrs=primary"), [TargetServer::Primary]);
    let modes: Vec<SslMode> =
        parse_all("host=db.example.com,localhost,/run/x user=u").unwrap().iter().map(|info| info.ssl_mode).collect();
    assert_eq!(modes, [SslMode::VerifyFull, SslMode::Prefer, SslMode::Disable]);
}

#[test]
fn no_message_repeats_a_password() {
    for url in [
        "postgres://u:s3cret@h:port/d",
        "postgres://u:s3c@ret@h/d",
        "postgres://u:s3c?ret=x@h/d",
        "postgres://u:x@h/d?sslmode=s3cre",
        "host=h password='s3cret",
        "host=h password=s3 cret=1",
        "s3cret",
    ] {
        let message = refusal(url).replace("sslmode is \"s3cre\"", "");
        assert!(!message.contains("s3c") && !message.contains("cret") && !message.contains("ret="), "{url}: {message}");
    }
}

#[test]
fn settings_of_other_libraries_are_named_with_what_to_delete() {
    let prisma = refusal("postgres://u:s3cret@h/d?schema=public&connection_limit=1&pgbouncer=true");
    for part in ["`schema`", "`connection_limit=...`", "`pgbouncer`", "Prisma", "delete", "direct address"] {
        assert!(prisma.contains(part), "{part}: {prisma}");
    }
    assert!(!prisma.contains("s3cret") && !prisma.contains("public"), "{prisma}");
    assert!(refusal("postgres://u@h/d?gssencmode=disable").contains("`gssencmode`"));
    assert!(refusal("postgres://u@h/d?ssl=no-verify").contains("delete `ssl=...`"));
}

#[test]
fn channel_binding_without_tls_is_refused_before_a_password_is_sent() {
    for url in ["postgres://u@h/d?channel_binding=require&sslmode=disable", "host=/run/x channel_binding=require"] {
        assert!(refusal(url).contains("needs TLS"), "{url}");
    }
    let info = parse("postgres://u@h/d?channel_binding=require&sslmode=require").unwrap();
    assert_eq!(info.config.get_channel_binding(), ChannelBinding::Require);
}

#[test]
fn the_operating_system_notices_a_dead_connection_within_half_a_minute_unless_told_otherwise() {
    assert_eq!(parse("host=h").unwrap().liveness, Liveness::default());
    let told =
        parse("host=h keepalives_idle=60 keepalives_interval=5 keepalives_count=9 tcp_user_timeout=45000").unwrap();
    let seconds = Duration::from_secs;
    let expected =
        Liveness { keepalives: true, idle: seconds(60), interval: seconds(5), retries: 9, user_timeout: seconds(45) };
    assert_eq!(told.liveness, expected);
}

#[test]
fn a_unix_socket_needs_no_tls() {
    for url in
        ["host=/run/x user=u dbname=d sslmode=require", "postgres://u@%2Frun%2Fx/d", "postgres://u@/d?host=/run/x"]
    {
        let info = parse(url).unwrap();
        assert_eq!((info.host.clone(), info.ssl_mode), (Host::Unix("/run/x".into()), SslMode::Disable), "{url}");
        assert_eq!(info.server(), "/run/x:5432/d");
    }
}
