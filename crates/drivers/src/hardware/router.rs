//! The way to other networks: `/proc/net/route` and `/proc/net/arp`.

use model::hardware::Gateway;
use std::net::Ipv4Addr;

/// Cards that stand for whichever of several routers is in charge (VRRP, HSRP): such a one is doubled already.
const DOUBLED: [&str; 3] = ["00:00:5e:00:01:", "00:00:0c:07:ac:", "00:00:0c:9f:f"];
/// A neighbour that answered.
const COMPLETE: u32 = 2;

/// The router of the default route, if there is one only and it answers.
pub(super) fn gateway(routes: &str, neighbours: &str) -> Option<Gateway> {
    let mut routers = routes.lines().skip(1).filter_map(default_route);
    let router = routers.next()?;
    // With another one beside it, neither alone is the way.
    if routers.any(|other| other != router) {
        return None;
    }
    let card = neighbours.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [address, _, flags, card, ..] = fields[..] else {
            return None;
        };
        let flags = u32::from_str_radix(flags.trim_start_matches("0x"), 16).ok()?;
        (address.parse() == Ok(router) && flags & COMPLETE != 0).then(|| card.to_ascii_lowercase())
    })?;
    let is_doubled = DOUBLED.iter().any(|begin| card.starts_with(begin));
    (!is_doubled).then(|| Gateway {
        address: router.to_string(),
        card,
    })
}

/// `eth0 00000000 010200C0 0003 …`: the bytes stand as this machine has them in memory.
fn default_route(line: &str) -> Option<Ipv4Addr> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let [_, destination, gateway, _, _, _, _, mask, ..] = fields[..] else {
        return None;
    };
    let number = |text: &str| u32::from_str_radix(text, 16).ok();
    let is_default = number(destination)? == 0 && number(mask)? == 0;
    let gateway = Ipv4Addr::from(number(gateway)?.to_ne_bytes());
    (is_default && !gateway.is_unspecified()).then_some(gateway)
}

#[cfg(test)]
mod tests {
    use super::gateway;

    const ROUTES: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
        eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
        eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";

    fn neighbours(flags: &str, card: &str) -> String {
        format!(
            "IP address       HW type     Flags       HW address            Mask     Device\n\
             192.0.2.1        0x1         {flags}         {card}     *        eth0\n"
        )
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn one_router_that_answers_is_the_way() {
        let found = gateway(ROUTES, &neighbours("0x2", "02:FC:00:00:00:05"));
        let found = found.map(|gateway| (gateway.address, gateway.card));
        assert_eq!(found, Some(("192.0.2.1".to_owned(), "02:fc:00:00:00:05".to_owned())));
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn a_doubled_one_a_silent_one_and_two_are_none() {
        assert_eq!(gateway(ROUTES, &neighbours("0x2", "00:00:5e:00:01:07")), None);
        assert_eq!(gateway(ROUTES, &neighbours("0x0", "00:00:00:00:00:00")), None);
        let two = format!("{ROUTES}eth1\t00000000\t020200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n");
        assert_eq!(gateway(&two, &neighbours("0x2", "02:fc:00:00:00:05")), None);
        assert_eq!(gateway("", ""), None);
    }
}
