//! The kernel's texts, parsed. Anything unexpected is `None`, never a guess.

/// The number after a word at the beginning of a line: `usage_usec 123`.
pub(super) fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (word, rest) = line.split_once([' ', ':'])?;
        (word == name).then(|| rest.split_ascii_whitespace().next()?.parse().ok())?
    })
}

/// How long some of the threads have waited in all, in microseconds: the `total` of the line `some` of a pressure file.
pub(super) fn stalled_us(text: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with("some "))?;
    line.rsplit_once("total=")?.1.trim().parse().ok()
}

/// Bytes read and written on all disks: `io.stat`.
pub(super) fn io_bytes(text: &str) -> Option<u64> {
    let mut total: u64 = 0;
    for part in text.split_ascii_whitespace() {
        if let Some(bytes) = part.strip_prefix("rbytes=").or_else(|| part.strip_prefix("wbytes=")) {
            total = total.checked_add(bytes.parse().ok()?)?;
        }
    }
    Some(total)
}

/// What `/proc/PID/stat` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stat {
    /// Time on processors, its own and that of children that it waited for, in clock ticks.
    pub(super) cpu_ticks: u64,
    pub(super) threads: u64,
    pub(super) resident_pages: u64,
}

/// Reads `/proc/PID/stat`, whose second field may have spaces and parentheses in it.
pub(super) fn stat(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(") ")?;
    let mut fields = rest.split_ascii_whitespace();
    // Numbers as in proc_pid_stat(5), of which the first here is field 3.
    let mut number = |skip: usize| fields.nth(skip)?.parse::<i64>().ok();
    let (user, system, child_user, child_system) = (number(11)?, number(0)?, number(0)?, number(0)?);
    let threads = number(2)?;
    let resident = number(3)?;
    Some(Stat {
        cpu_ticks: [user, system, child_user, child_system]
            .into_iter()
            .filter_map(|ticks| u64::try_from(ticks).ok())
            .sum(),
        threads: u64::try_from(threads).ok()?,
        resident_pages: u64::try_from(resident).unwrap_or(0),
    })
}

/// Ticks that all processors were busy: the first line of `/proc/stat`, without idle and waiting for disks.
pub(super) fn busy_ticks(text: &str) -> Option<u64> {
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = line
        .split_ascii_whitespace()
        .filter_map(|field| field.parse().ok())
        .collect();
    // user, nice, system, idle, iowait, irq, softirq, steal; what guests used is in user.
    (ticks.len() >= 8).then(|| ticks[0] + ticks[1] + ticks[2] + ticks[5] + ticks[6] + ticks[7])
}

/// Sectors of 512 bytes read and written on whole disks: `/proc/diskstats`, without partitions and what lies on other devices.
pub(super) fn disk_sectors(text: &str) -> u64 {
    let whole = |name: &str| {
        let partition = name.starts_with("nvme") && name.contains('p')
            || !name.starts_with("nvme") && name.ends_with(|c: char| c.is_ascii_digit());
        !(partition || name.starts_with("loop") || name.starts_with("ram") || name.starts_with("dm-"))
    };
    text.lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            whole(fields.get(2)?)
                .then(|| Some(fields.get(5)?.parse::<u64>().ok()? + fields.get(9)?.parse::<u64>().ok()?))?
        })
        .sum()
}

/// The load of a minute, and how many threads there are: `/proc/loadavg`.
pub(super) fn load(text: &str) -> Option<(f64, u64)> {
    let mut fields = text.split_ascii_whitespace();
    let load = fields.next()?.parse().ok()?;
    let threads = fields.nth(2)?.split_once('/')?.1.parse().ok()?;
    Some((load, threads))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_texts_are_understood() {
        let cpu = "usage_usec 5012\nuser_usec 5000\nsystem_usec 12\nnr_periods 9\nnr_throttled 2\nthrottled_usec 800\n";
        assert_eq!(field(cpu, "usage_usec"), Some(5_012));
        assert_eq!(field(cpu, "throttled_usec"), Some(800));
        assert_eq!(field(cpu, "nothing"), None);
        assert_eq!(
            field("MemTotal:       16384 kB\nMemAvailable:    512 kB\n", "MemAvailable"),
            Some(512)
        );
        let pressure =
            "some avg10=0.00 avg60=0.12 avg300=0.50 total=123456\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=99\n";
        assert_eq!(stalled_us(pressure), Some(123_456));
        assert_eq!(
            io_bytes("8:0 rbytes=100 wbytes=20 rios=1 wios=1 dbytes=0 dios=0\n8:16 rbytes=3 wbytes=4 rios=1\n"),
            Some(127)
        );
        assert_eq!(io_bytes(""), Some(0));
        let text = "42 (a (strange) name) S 1 42 42 0 -1 4194560 100 0 0 0 11 22 3 4 20 0 7 0 12345 1000000 250 18446744073709551615 1";
        let expected = Stat {
            cpu_ticks: 40,
            threads: 7,
            resident_pages: 250,
        };
        assert_eq!(stat(text), Some(expected));
        assert_eq!(busy_ticks("cpu  10 1 5 1000 50 2 3 4 0 0\ncpu0 1 1 1\n"), Some(25));
        assert_eq!(load("0.52 0.40 0.30 2/345 6789\n"), Some((0.52, 345)));
        let disks = "   8       0 sda 10 0 100 5 20 0 200 6 0 5 11\n   8       1 sda1 10 0 100 5 20 0 200 6 0 5 11\n   7 0 loop0 1 0 9 0 0 0 0 0 0 0 0\n 259 0 nvme0n1 1 0 1 0 1 0 2 0 0 0 0\n 259 1 nvme0n1p1 1 0 1 0 1 0 2 0 0 0 0\n";
        assert_eq!(disk_sectors(disks), 303);
    }

    #[test]
    fn nonsense_is_nothing() {
        for text in ["", "cpu", "some total=x", "1 (x", ") ", "some", "\u{0}", "1 (x) S 1"] {
            assert_eq!(
                (stat(text), stalled_us(text), busy_ticks(text), load(text)),
                (None, None, None, None),
                "{text}"
            );
            assert_eq!(disk_sectors(text), 0);
        }
    }
}
