//! Which texts are right where a name, an address, a path or a user is expected.

use crate::kind::TextRule;
use crate::source::shown;
use model::{FloatingAddress, template};
use std::net::{IpAddr, SocketAddr};

/// What is wrong with a text, as a sentence without a subject, and what to do.
pub(crate) fn problem(rule: TextRule, text: &str) -> Option<(String, Option<String>)> {
    if text.contains('\0') {
        return Some(("contains the character NUL, which no program can be given".into(), None));
    }
    match rule {
        TextRule::Any => None,
        TextRule::Name => {
            let problem = model::name_problem(text)?;
            let close = name_close_to(text).map(|name| format!("`{name}` would be possible"));
            Some((shown(&problem), close))
        }
        TextRule::Variable => variable_problem(text).map(|problem| (problem, None)),
        TextRule::HttpPath => http_path_problem(text),
        TextRule::Folder => (!text.starts_with('/') && !text.starts_with("{data}")).then(|| {
            let below = text.trim_start_matches("./");
            let help = format!(
                "write `/…/{0}`, or `{{data}}/{0}` for a folder of each instance",
                shown(below)
            );
            ("must be an absolute path or begin with `{data}`".into(), Some(help))
        }),
        TextRule::HostAddress => host_address(text).err().map(|(problem, help)| (problem, Some(help))),
        TextRule::Interface => interface_problem(text),
        TextRule::Percent => model::Share::parse(text).is_none().then(|| percent_problem(text)),
        TextRule::File => (!text.starts_with('/') || text.ends_with('/')).then(|| {
            let help = format!("write `/…/{}`", shown(text.trim_matches(['.', '/'])));
            ("must be the absolute path of a file".into(), Some(help))
        }),
        TextRule::Url => url_problem(text),
        TextRule::Zone => zone_problem(text),
        TextRule::User => {
            let is_bad = |c: char| c.is_whitespace() || c.is_control() || matches!(c, ':' | '/');
            (text.is_empty() || text.contains(is_bad)).then(|| ("is not a user's name or number".into(), None))
        }
    }
}

fn percent_problem(text: &str) -> (String, Option<String>) {
    let number = text.trim().trim_end_matches('%').trim();
    let meant = match number.parse::<f64>() {
        // A share of 1, as programs write it.
        Ok(share) if !text.contains('%') && 0.0 < share && share < 1.0 => {
            let percent = format!("{:.4}", share * 100.0);
            Some(format!("{}%", percent.trim_end_matches('0').trim_end_matches('.')))
        }
        Ok(_) => Some(format!("{number}%")),
        Err(_) => None,
    };
    let help = meant
        .filter(|meant| model::Share::parse(meant).is_some())
        .map(|meant| format!("write `\"{meant}\"`"));
    let problem = "must be more than 0 % and less than 100 %, with at most four decimals and the sign `%`";
    (problem.into(), help)
}

/// Addresses that alerts are sent to. What is secret in them would be shown to everybody who may read the file.
fn url_problem(text: &str) -> Option<(String, Option<String>)> {
    let Some(rest) = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")) else {
        let help = (!text.contains("://") && !text.is_empty()).then(|| format!("write `\"http://{}\"`", shown(text)));
        return Some(("must begin with `http://` or `https://`".into(), help));
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if authority.contains('@') {
        let help = "put the token alone into a file, and name it as `token_file`".to_owned();
        return Some((
            "has a secret in it, which everybody who reads the file would see".into(),
            Some(help),
        ));
    }
    let host = authority.strip_suffix(']').map_or_else(
        || authority.rsplit_once(':').map_or(authority, |(host, _)| host),
        |_| authority,
    );
    let port = authority.strip_prefix(host).unwrap_or_default();
    if host.is_empty() || !port.is_empty() && port.strip_prefix(':').is_none_or(|port| port.parse::<u16>().is_err()) {
        return Some(("has no host, or a port that is none".into(), None));
    }
    let is_bad = |c: char| !c.is_ascii_graphic() || matches!(c, '"' | '<' | '>' | '\\' | '{' | '}');
    let bad = authority.chars().chain(path.chars()).find(|c| is_bad(*c))?;
    Some((format!("contains {bad:?}, which cannot be in an address"), None))
}

fn variable_problem(text: &str) -> Option<String> {
    if text.is_empty() {
        Some("is empty".into())
    } else if text.contains('=') {
        Some("must not contain `=`".into())
    } else if text.starts_with("UNDERSTUDY_") {
        Some("is Understudy's own: what begins with `UNDERSTUDY_` is set for each instance".into())
    } else {
        None
    }
}

fn http_path_problem(text: &str) -> Option<(String, Option<String>)> {
    const PATH_BYTES_MAX: usize = 2_048;
    if let Some((_, after)) = text.split_once("://") {
        let path = after.find('/').map_or("/", |at| &after[at..]);
        let help = format!(
            "write `http = \"{}\"`: the instance's own address is put before it",
            shown(path)
        );
        return Some(("must be a path, not a whole address".into(), Some(help)));
    }
    if !text.starts_with('/') {
        return Some((
            "must begin with `/`".into(),
            Some(format!("write `http = \"/{}\"`", shown(text))),
        ));
    }
    if text.len() > PATH_BYTES_MAX {
        return Some((
            format!("has {} characters, at most {PATH_BYTES_MAX} are allowed", text.len()),
            None,
        ));
    }
    // One that is not closed is reported with the other placeholders.
    let mut rest = text.to_owned();
    for placeholder in template::placeholders(text).ok()?.into_iter().rev() {
        rest.replace_range(placeholder.range, "");
    }
    let bad = rest
        .chars()
        .find(|c| !c.is_ascii_graphic() || matches!(c, '{' | '}' | '"' | '<' | '>' | '#' | '\\'))?;
    let help = "a path holds letters, digits and a few signs; write others as %20 and the like".to_owned();
    Some((
        format!("contains {bad:?}, which cannot be in the path of a request"),
        Some(help),
    ))
}

/// The name that is left when what cannot be in a name is replaced.
fn name_close_to(text: &str) -> Option<String> {
    let name: String = text
        .to_lowercase()
        .chars()
        .map(|c| {
            if c.is_ascii_lowercase() || c.is_ascii_digit() {
                c
            } else {
                '-'
            }
        })
        .collect();
    let name = name.trim_matches('-');
    model::name_problem(name).is_none().then(|| name.to_owned())
}

/// Reads `IP/PREFIX`, or says what is wrong and what to write.
pub(crate) fn host_address(text: &str) -> Result<(IpAddr, u8), (String, String)> {
    let usual = |ip: IpAddr| if ip.is_ipv4() { 24 } else { 64 };
    let write = |ip: IpAddr, prefix: u8| format!("write `\"{ip}/{prefix}\"`");
    let (host, prefix) = match text.split_once('/') {
        Some((host, prefix)) => (host, Some(prefix)),
        None => (text, None),
    };
    let Ok(ip) = host.parse::<IpAddr>() else {
        if let Ok(address) = host.parse::<SocketAddr>() {
            return Err((
                "is an address of a host, without a port".into(),
                write(address.ip(), usual(address.ip())),
            ));
        }
        if let Ok(ip) = host.trim().trim_matches(['[', ']']).parse::<IpAddr>() {
            return Err((
                "must be an IP address and its prefix alone".into(),
                write(ip, usual(ip)),
            ));
        }
        return Err((
            format!("must be an IP address and its prefix, not `{}`", shown(text)),
            "for example `\"10.0.0.100/24\"` or `\"fd00::100/64\"`: an address that no host has for itself, and the prefix of its network"
                .into(),
        ));
    };
    let Some(digits) = prefix else {
        let problem = "has no prefix: how many bits of it name the network".into();
        return Err((problem, write(ip, usual(ip))));
    };
    let prefix = if digits.is_empty() || digits.contains(|c: char| !c.is_ascii_digit()) {
        None
    } else {
        digits.parse().ok()
    };
    // A mask, a sign or a number that no family has.
    let prefix = prefix.unwrap_or(u8::MAX);
    match FloatingAddress::problem(ip, prefix) {
        None => Ok((ip, prefix)),
        Some(problem) => {
            let next = match ip {
                IpAddr::V4(ip) => IpAddr::from(ip.to_bits().wrapping_add(1).to_be_bytes()),
                ip => ip,
            };
            let help = match problem {
                _ if problem.starts_with("must have a prefix") => write(ip, usual(ip)),
                _ if problem.contains("of the network itself") => write(next, prefix),
                _ => "for example `\"10.0.0.100/24\"` or `\"fd00::100/64\"`".into(),
            };
            Err((problem.into(), help))
        }
    }
}

fn zone_problem(text: &str) -> Option<(String, Option<String>)> {
    let is_bad = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    let problem = match text {
        "" => "is empty".to_owned(),
        _ if text.split('/').any(str::is_empty) => "has an empty part".to_owned(),
        _ => match text.split('/').find_map(|part| part.chars().find(|c| is_bad(*c))) {
            Some(c) => format!("contains {c:?}, only letters, digits, `-`, `_`, `.` and `/` are allowed"),
            None => return None,
        },
    };
    Some((
        problem,
        Some("for example `\"dc1/rack3\"`: the widest domain first".into()),
    ))
}

fn interface_problem(text: &str) -> Option<(String, Option<String>)> {
    const BYTES_MAX: usize = 15;
    let problem = match text {
        "" => "is empty",
        _ if text.len() > BYTES_MAX => "is longer than the 15 bytes that a network interface's name can have",
        _ if text.contains(|c: char| c.is_whitespace() || c == '/') => {
            "has a blank or a slash in it, as no interface's name"
        }
        _ => return None,
    };
    Some((
        problem.into(),
        Some("`ip -brief address` lists them, for example `interface = \"eth0\"`".into()),
    ))
}

/// Reads `IP:PORT`, or says what is wrong and what to write.
pub(crate) fn address(text: &str) -> Result<SocketAddr, (String, String)> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        if address.port() == 0 {
            return Err((
                "must not have port 0: clients could not know where to come to".into(),
                format!(
                    "choose a port, for example `listen = \"{}\"`",
                    SocketAddr::new(address.ip(), 8080)
                ),
            ));
        }
        return Ok(address);
    }
    let write = |address: SocketAddr| format!("write `listen = \"{address}\"`");
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Err(("has no port".into(), write(SocketAddr::new(ip, 8080))));
    }
    let bare = text
        .split_once("://")
        .map_or(text, |(_, after)| after)
        .trim_end_matches('/');
    let (host, port) = bare.rsplit_once(':').unwrap_or(("", bare));
    let Ok(port) = port.parse::<u16>() else {
        return Err((
            format!("must be an IP address and a port, not `{}`", shown(text)),
            "for example `listen = \"127.0.0.1:8080\"`, or `\"0.0.0.0:8080\"` for all addresses of the machine".into(),
        ));
    };
    let port = if port == 0 { 8080 } else { port };
    if let Ok(ip) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Err((
            "must be an IP address and a port alone".into(),
            write(SocketAddr::new(ip, port)),
        ));
    }
    let both = format!(
        "write `listen = \"127.0.0.1:{port}\"` for this machine alone, or `\"0.0.0.0:{port}\"` for all its addresses"
    );
    match host {
        "" => Err(("has no IP address".into(), both)),
        "*" => Err((
            "has no IP address".into(),
            write(SocketAddr::from(([0, 0, 0, 0], port))),
        )),
        "localhost" => Err((
            "must be an IP address and a port, and `localhost` is a host name".into(),
            write(SocketAddr::from(([127, 0, 0, 1], port))),
        )),
        name => Err((
            format!("must be an IP address and a port, and `{}` is a host name", shown(name)),
            both,
        )),
    }
}
