//! The query parameters of a PostgreSQL URL: which count, which change nothing here, and which are refused.
//!
//! **Problem.** Hosting providers hand out URLs for libpq, with parameters that the driver does not know. To drop one
//! silently can drop a promise (`channel_binding=require`); to refuse them all makes the URL useless. **How.** What the
//! driver or the store can do is done, what changes nothing here is accepted, and everything else is refused by its
//! name with what to do instead. Source: PostgreSQL's documentation, "Parameter Key Words".
//!
//! **Guarantees.** The driver sees only parameters that it knows: of others it would log the value. No value is in an
//! error, but for the number of a time-out. An empty value counts as none, as in libpq.

use std::time::Duration;

use url::Url;

use crate::connect::TlsMode;
use crate::connect::options::TIMEOUT_MAX;
use crate::open_error::OpenError;
use crate::settings::InvalidSetting;

/// Parameters that the driver is given as they are.
const OF_THE_DRIVER: [&str; 11] = [
    "application_name",
    "dbname",
    "host",
    "options",
    "password",
    "port",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "user",
];

/// Parameters that change nothing here, with the values for which that is true (any, if none is named), and what to do
/// about other values.
const WITHOUT_EFFECT: [(&str, &[&str], &str); 20] = [
    (
        "channel_binding",
        &["disable", "prefer"],
        "the driver has no channel binding; use channel_binding=prefer, and sslmode=verify-full to prove who answers",
    ),
    (
        "client_encoding",
        &[
            "auto", "UTF8", "UTF-8", "utf8", "utf-8", "unicode", "UNICODE",
        ],
        "the driver speaks UTF-8; leave the parameter out",
    ),
    (
        "gssdelegation",
        &["0"],
        "the driver has no GSSAPI; leave the parameter out",
    ),
    (
        "gssencmode",
        &["disable", "prefer"],
        "the driver has no GSSAPI; use gssencmode=disable and TLS",
    ),
    ("gsslib", &[], ""),
    // Every call has a deadline of its own, so a connection that is dead is noticed without them.
    ("keepalives", &[], ""),
    ("keepalives_count", &[], ""),
    ("keepalives_idle", &[], ""),
    ("keepalives_interval", &[], ""),
    ("krbsrvname", &[], ""),
    (
        "load_balance_hosts",
        &["disable", "random"],
        "it must be disable or random",
    ),
    ("max_protocol_version", &[], ""),
    (
        "min_protocol_version",
        &["3.0"],
        "the driver speaks protocol version 3.0; leave the parameter out",
    ),
    (
        "pgbouncer",
        &["false"],
        "it announces a pooler in transaction mode; use the URL of the server itself or of a pooler in session mode",
    ),
    (
        "ssl_max_protocol_version",
        &["TLSv1.3"],
        "the driver speaks TLS 1.2 and 1.3; leave the parameter out",
    ),
    (
        "ssl_min_protocol_version",
        &["TLSv1", "TLSv1.1", "TLSv1.2"],
        "the driver speaks TLS 1.2 and 1.3; leave the parameter out, and let the server demand 1.3",
    ),
    (
        "sslcertmode",
        &["allow"],
        "the driver sends the certificate of sslcert if the server asks for one; leave the parameter out",
    ),
    ("sslcompression", &[], ""),
    (
        "sslnegotiation",
        &["postgres"],
        "the driver asks the server for TLS first; leave the parameter out",
    ),
    ("tcp_user_timeout", &[], ""),
];

/// More of the same: a certificate's host is always sent, and what Vercel adds to the URLs of Supabase is a mark.
const WITHOUT_EFFECT_EITHER: [(&str, &[&str], &str); 2] = [
    (
        "sslsni",
        &["1"],
        "the driver always sends the name of the host; leave the parameter out",
    ),
    ("supa", &[], ""),
];

/// Parameters that nobody here could honour, and what to do instead.
const REFUSED: [(&str, &str); 15] = [
    ("connection_limit", "set pool_connections_max instead"),
    ("hostaddr", "give the address as the host"),
    ("passfile", "set the variable PGPASSFILE"),
    ("pool_timeout", "set acquire_timeout instead"),
    ("replication", "leave it out"),
    (
        "require_auth",
        "the driver cannot demand a method; use sslmode=verify-full to prove who answers",
    ),
    (
        "requirepeer",
        "the driver cannot look at the owner of a socket; leave it out",
    ),
    ("requiressl", "use sslmode"),
    ("schema", "use options=-c%20search_path%3DSCHEMA"),
    ("service", "write what the service says into the URL"),
    ("servicefile", "write what the service says into the URL"),
    ("ssl", "use sslmode"),
    ("sslcrl", "the driver reads no revocation lists"),
    ("sslcrldir", "the driver reads no revocation lists"),
    (
        "sslpassword",
        "the driver reads unencrypted keys only; decrypt the key with `openssl pkey`",
    ),
];

/// What the parameters ask of the store, beyond what the driver does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Asked {
    /// How long opening a connection may take.
    pub(crate) connect_timeout: Option<Duration>,
    /// Which server it has to be.
    pub(crate) server: AskedServer,
    /// Only well-known authorities are trusted, and the certificate has to name the host: `sslrootcert=system`.
    pub(crate) system_roots: bool,
}

/// The server that `target_session_attrs` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum AskedServer {
    /// Any one that serves the store.
    #[default]
    Any,
    /// One that takes writes.
    Primary,
    /// One where a session cannot write, for whatever reason.
    ReadOnly,
    /// A standby.
    Standby,
}

/// Judges the parameters, and leaves in the URL those of the driver alone.
pub(super) fn take(url: &mut Url) -> Result<Asked, OpenError> {
    let mut asked = Asked::default();
    let mut kept: Vec<(String, String)> = Vec::new();
    let mut fallback_name = None;
    let query = url.query().unwrap_or_default();
    for (name, value) in url.query_pairs() {
        if value.is_empty() && is_known(&name) {
            continue;
        }
        match &*name {
            "connect_timeout" => asked.connect_timeout = Some(connect_timeout(&value)?),
            "fallback_application_name" => fallback_name = Some(value.into_owned()),
            "sslrootcert" if value == "system" => asked.system_roots = true,
            "target_session_attrs" => asked.server = server(&value)?,
            "host" | "port" if value.contains(',') => return Err(several_hosts()),
            "port" if value.parse::<u16>().is_err() => {
                return Err(refused("port", "it must be a number"));
            }
            name if OF_THE_DRIVER.contains(&name) => {
                if name == "sslmode" {
                    value.parse::<TlsMode>()?;
                }
                kept.push((name.to_owned(), value.into_owned()));
            }
            name => accept(name, &value, query)?,
        }
    }
    let is_named = |(name, _): &(String, String)| name == "application_name";
    if let Some(name) = fallback_name
        && !kept.iter().any(is_named)
        && std::env::var_os("PGAPPNAME").is_none()
    {
        kept.push(("application_name".to_owned(), name));
    }
    if kept.is_empty() {
        url.set_query(None);
    } else {
        url.query_pairs_mut().clear().extend_pairs(kept);
    }
    Ok(asked)
}

/// The error for a URL with more than one host.
pub(super) fn several_hosts() -> OpenError {
    OpenError::InvalidUrl {
        problem: "it has several hosts; name the primary, or an address that leads to it".into(),
    }
}

fn without_effect()
-> impl Iterator<Item = &'static (&'static str, &'static [&'static str], &'static str)> {
    WITHOUT_EFFECT.iter().chain(&WITHOUT_EFFECT_EITHER)
}

fn is_known(name: &str) -> bool {
    OF_THE_DRIVER.contains(&name)
        || without_effect().any(|(known, ..)| *known == name)
        || REFUSED.iter().any(|(known, _)| *known == name)
        || [
            "connect_timeout",
            "fallback_application_name",
            "target_session_attrs",
        ]
        .contains(&name)
}

/// Accepts a parameter that changes nothing here.
fn accept(name: &str, value: &str, query: &str) -> Result<(), OpenError> {
    if let Some((name, values, advice)) = without_effect().find(|(known, ..)| *known == name) {
        return if values.is_empty() || values.contains(&value) {
            Ok(())
        } else {
            Err(refused(name, advice))
        };
    }
    if let Some((name, advice)) = REFUSED.iter().find(|(known, _)| *known == name) {
        return Err(refused(name, advice));
    }
    // A `?` or `&` in a password that is not encoded makes the rest of the secret a parameter, and the `@` comes behind it.
    let is_name = |letter: char| letter.is_ascii_lowercase() || letter == '_';
    let problem = if query.contains('@') {
        "an `@` in an unknown parameter; percent-encode the password".to_owned()
    } else if query.contains("password=") {
        "an unknown parameter; percent-encode the password, or leave the parameter out".to_owned()
    } else if name.chars().all(is_name) {
        format!("unknown parameter {name}; leave it out")
    } else {
        "a parameter whose name is not made of lower-case letters; leave it out".to_owned()
    };
    Err(OpenError::InvalidUrl {
        problem: problem.into(),
    })
}

/// Whole seconds, as in libpq: none or less than none is without end, here the longest that there is.
fn connect_timeout(value: &str) -> Result<Duration, OpenError> {
    let seconds = value
        .trim()
        .parse::<i32>()
        .map_err(|_| refused("connect_timeout", "it must be a whole number of seconds"))?;
    let timeout = match u64::try_from(seconds) {
        Ok(0) | Err(_) => TIMEOUT_MAX,
        Ok(seconds) => Duration::from_secs(seconds),
    };
    InvalidSetting::unless_in("connect_timeout", timeout, ..=TIMEOUT_MAX)?;
    Ok(timeout)
}

fn server(value: &str) -> Result<AskedServer, OpenError> {
    match value {
        // With one host there is nothing to prefer.
        "any" | "prefer-standby" => Ok(AskedServer::Any),
        "read-write" | "primary" => Ok(AskedServer::Primary),
        "read-only" => Ok(AskedServer::ReadOnly),
        "standby" => Ok(AskedServer::Standby),
        _ => Err(refused(
            "target_session_attrs",
            "it must be any, read-write, read-only, primary, standby or prefer-standby",
        )),
    }
}

fn refused(name: &str, advice: &str) -> OpenError {
    OpenError::InvalidUrl {
        problem: format!("parameter {name}: {advice}").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(query: &str) -> Result<(Asked, String), OpenError> {
        let mut url = Url::parse(&format!("postgres://u:p@host/d?{query}")).unwrap();
        let asked = take(&mut url)?;
        Ok((asked, url.query().unwrap_or_default().to_owned()))
    }

    #[test]
    fn parameters_of_hosting_providers_are_accepted_and_those_without_effect_left_out() {
        for (query, kept) in [
            (
                "sslmode=verify-full&channel_binding=prefer",
                "sslmode=verify-full",
            ),
            ("channel_binding=disable&gssencmode=disable", ""),
            (
                "options=endpoint%3Dep-cool-1",
                "options=endpoint%3Dep-cool-1",
            ),
            ("options=project%3Dabc", "options=project%3Dabc"),
            ("application_name=a@b", "application_name=a%40b"),
            (
                "application_name=a&fallback_application_name=b",
                "application_name=a",
            ),
            (
                "keepalives=1&keepalives_idle=30&keepalives_interval=5&keepalives_count=3",
                "",
            ),
            (
                "tcp_user_timeout=1000&sslcompression=0&sslsni=1&client_encoding=utf8",
                "",
            ),
            (
                "ssl_min_protocol_version=TLSv1.2&sslnegotiation=postgres",
                "",
            ),
            ("pgbouncer=false&krbsrvname=postgres&supa=base-pooler.x", ""),
            (
                "sslrootcert=&sslmode=&connect_timeout=&channel_binding=&sslcrl=",
                "",
            ),
        ] {
            assert_eq!(
                taken(query).map(|(_, kept)| kept),
                Ok(kept.to_owned()),
                "{query}"
            );
        }
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_name_and_never_by_value() {
        for name in [
            "channel_binding",
            "gssencmode",
            "sslnegotiation",
            "sslsni",
            "sslcertmode",
            "ssl_max_protocol_version",
            "min_protocol_version",
            "client_encoding",
            "pgbouncer",
            "target_session_attrs",
            "connect_timeout",
            "port",
            "hostaddr",
            "passfile",
            "service",
            "requirepeer",
            "require_auth",
            "sslcrl",
            "sslpassword",
            "ssl",
            "schema",
            "connection_limit",
            "unheard_of",
        ] {
            let refused = taken(&format!("{name}=marker7")).unwrap_err();
            let shown = format!("{refused} {refused:?}");
            assert!(matches!(refused, OpenError::InvalidUrl { .. }), "{shown}");
            assert!(shown.contains(name), "{name}: {shown}");
            assert!(!shown.contains("marker7"), "{shown}");
        }
        for query in [
            "ssl_min_protocol_version=TLSv1.3",
            "channel_binding=require",
            "gssencmode=require",
        ] {
            assert!(taken(query).is_err(), "{query}");
        }
        assert!(matches!(
            taken("sslmode=no-verify"),
            Err(OpenError::InvalidOption {
                option: "sslmode",
                ..
            })
        ));
    }

    #[test]
    fn a_connect_timeout_means_what_it_means_to_libpq() {
        for (value, seconds) in [
            ("10", 10),
            ("1", 1),
            ("3600", 3_600),
            ("0", 3_600),
            ("-1", 3_600),
        ] {
            let (asked, _) = taken(&format!("connect_timeout={value}")).unwrap();
            assert_eq!(
                asked.connect_timeout,
                Some(Duration::from_secs(seconds)),
                "{value}"
            );
        }
        assert!(taken("connect_timeout=1.5").is_err());
        let too_long = taken("connect_timeout=3601").unwrap_err();
        assert_eq!(
            too_long.to_string(),
            "connect_timeout is 3601s, it must be at most 3600s"
        );
    }

    #[test]
    fn the_kind_of_server_and_the_well_known_authorities_are_asked_for() {
        for (query, server) in [
            ("target_session_attrs=any", AskedServer::Any),
            ("target_session_attrs=prefer-standby", AskedServer::Any),
            ("target_session_attrs=read-write", AskedServer::Primary),
            ("target_session_attrs=primary", AskedServer::Primary),
            ("target_session_attrs=read-only", AskedServer::ReadOnly),
            ("target_session_attrs=standby", AskedServer::Standby),
        ] {
            assert_eq!(taken(query).unwrap().0.server, server, "{query}");
        }
        let (asked, kept) = taken("sslrootcert=system").unwrap();
        assert!(asked.system_roots && kept.is_empty());
    }

    #[test]
    fn no_piece_of_a_password_is_named() {
        let url = "postgres://h/d?user=u&password=abc&secretpart";
        let error = crate::connect::ConnectOptions::parse(url).unwrap_err();
        assert!(
            !format!("{error} {error:?}").contains("secretpart"),
            "{error}"
        );
    }
}
