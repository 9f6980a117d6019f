//! The page: its frame, which the script fills.

use maud::{DOCTYPE, Markup, PreEscaped, html};

/// The views, as they stand in the address behind `#/`, with their names and keys.
const VIEWS: &[(&str, &str, &str)] = &[
    ("overview", "Overview", "o"),
    ("charts", "Charts", "c"),
    ("events", "Events", "e"),
    ("failovers", "Failovers", "f"),
    ("risks", "Risks", "r"),
];

/// The keys, and what they do.
const KEYS: &[(&str, &str)] = &[
    ("o c e f r", "overview, charts, events, failovers, risks"),
    (
        "j k, arrows",
        "next and previous line of a list, or instance of the picture",
    ),
    ("Enter", "open what is focused"),
    ("Esc", "close, or back to the overview"),
    ("s", "switchover of the service that is open"),
    ("d", "drain, or let back, the node that is open"),
    ("x", "drill: break what is open on purpose"),
    ("p", "pause or resume automatic actions"),
    ("t", "light, dark, or as the system has it"),
    ("?", "this help"),
];

/// The page of a cluster. `first` is JSON of who looks and of how everything stands, so that the first picture has something to show.
pub fn page(cluster: &str, first: Option<&str>) -> String {
    let page: Markup = html! {
        (DOCTYPE)
        html lang="en" data-theme="auto" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (cluster) " · Understudy" }
                link rel="icon" href="data:,";
                link rel="stylesheet" href="/ui/style.css";
                // All at once: otherwise each is asked for when the one that needs it is there.
                @for asset in crate::assets::ASSETS.iter().filter(|asset| asset.name.ends_with(".js")) {
                    link rel="modulepreload" href={ "/ui/" (asset.name) };
                }
                script type="module" src="/ui/main.js" {}
            }
            body class="connecting" {
                a .skip href="#view" { "Skip to content" }
                (bar(cluster))
                div #banner role="alert" hidden {}
                main #view tabindex="-1" {
                    noscript { p { "This page draws itself with a script of its own. Without scripts, use `understudy status`." } }
                    (overview())
                    section #charts data-view="charts" hidden { h2 { "Charts" } div #chart-note .note {} div #chart-grid .charts {} }
                    (events())
                    section #failovers data-view="failovers" hidden {
                        h2 { "Failovers" }
                        p .note { "Each takeover from the first sign to the first answer. Bars start where the step before them ended." }
                        div #waterfalls {}
                    }
                    section #risks data-view="risks" hidden { h2 { "Risks" } div #risk-list {} }
                    section #detail data-view="detail" hidden {}
                    (sign_in())
                }
                div #say .visually-hidden role="status" aria-live="polite" {}
                dialog #ask aria-labelledby="ask-title" {}
                (help())
                @if let Some(first) = first {
                    script #first type="application/json" { (PreEscaped(data(first))) }
                }
            }
        }
    };
    page.into_string()
}

/// JSON in which no name can end the element that it stands in.
fn data(json: &str) -> String {
    json.replace('<', "\\u003c")
}

fn bar(cluster: &str) -> Markup {
    html! {
        header .bar {
            h1 { span .brand { "Understudy" } " " span #cluster { (cluster) } }
            p #live .pill data-state="wait" { span .mark aria-hidden="true" {} span #live-word { "connecting" } }
            nav aria-label="Views" {
                @for (name, title, key) in VIEWS {
                    a href={ "#/" (name) } data-nav=(name) aria-keyshortcuts=(key) { (title) }
                }
            }
            div .tools {
                button #pause type="button" hidden { "Pause" }
                button #theme type="button" aria-label="Colours: as the system has them" { "◐" }
                button #help-open type="button" aria-label="Keys and help" aria-keyshortcuts="?" { "?" }
                button #who type="button" { "Sign in" }
            }
        }
    }
}

fn overview() -> Markup {
    html! {
        section #overview data-view="overview" {
            div #problems aria-label="Problems" {}
            div #verdict {}
            div .panel {
                h2 { "What runs where" }
                div #picture {}
                (legend())
            }
            div .panel {
                h2 { "Services" }
                div .scroll { table #services .lines {} }
            }
            div .panel {
                h2 { "Latest" }
                ol #latest .log {}
            }
        }
    }
}

fn legend() -> Markup {
    html! {
        p .legend aria-hidden="true" {
            span { i .sh data-is="active" {} "active" }
            span { i .sh data-is="standby" {} "standby, ready" }
            span { i .sh data-is="unready" {} "standby, not ready" }
            span { i .sh data-is="starting" {} "starting or ending" }
            span { i .sh data-is="failed" {} "failed" }
            span { i .sh data-is="stale" {} "old news" }
            span { i .sh data-is="spof" {} "single point of failure" }
        }
    }
}

fn events() -> Markup {
    html! {
        section #events data-view="events" hidden {
            h2 { "Events" }
            form .filter role="search" {
                label { "Service " select #event-service { option value="" { "all" } } }
                label { "At least " select #event-severity {
                    option value="info" { "everything" }
                    option value="warning" { "warnings" }
                    option value="error" { "errors" }
                } }
                label { "Containing " input #event-text type="search" autocomplete="off"; }
            }
            ol #event-list .log {}
        }
    }
}

fn sign_in() -> Markup {
    html! {
        section #sign-in data-view="sign-in" hidden {
            h2 { "Sign in" }
            p #sign-in-why {}
            p { "On a node, type " code { "understudy dashboard" } " and open the link that it prints, or put the pass here." }
            form #sign-in-form {
                label { "Pass " input #pass type="password" autocomplete="off" spellcheck="false" required; }
                button type="submit" .primary { "Sign in" }
            }
            p #sign-in-said role="alert" {}
        }
    }
}

fn help() -> Markup {
    html! {
        dialog #help aria-labelledby="help-title" {
            h2 #help-title { "Keys" }
            dl .keys { @for (keys, what) in KEYS { dt { @for key in keys.split(' ') { kbd { (key) } " " } } dd { (what) } } }
            h2 { "What the words mean" }
            dl {
                dt { "distance to outage" } dd { "How many failures it takes, at the least, until the service is down: of instances, nodes, zones, power, whatever is known of. 1: the next one does it." }
                dt { "epoch" } dd { "Counts the holders of a slot; each new one has a higher one, and an old one is refused." }
                dt { "old news" } dd { "Grey. It was so when it was last heard, and may be different by now." }
            }
            form method="dialog" { button .primary { "Close" } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_write_into_the_page() {
        let name = "</script><script>alert(1)</script>";
        let first = format!("{{\"cluster\":\"{name}\"}}");
        let page = page(name, Some(&first));
        assert!(!page.contains("<script>alert"), "{page}");
        assert!(!page.contains("</script><script>"), "{page}");
    }

    #[test]
    fn page_and_files_are_below_150_kilobytes_and_load_nothing_from_elsewhere() {
        let files: usize = crate::assets::ASSETS.iter().map(|asset| asset.text.len()).sum();
        let all = page("shop", None).len() + files;
        assert!(all < 150_000, "{all} bytes");
        for text in crate::assets::ASSETS
            .iter()
            .map(|asset| asset.text)
            .chain([page("shop", None).as_str()])
        {
            let foreign = text
                .match_indices("http")
                .filter(|(at, _)| !text[*at..].starts_with("http://www.w3.org/2000/svg"));
            let foreign: Vec<&str> = foreign
                .map(|(at, _)| &text[at..(at + 30).min(text.len())])
                .filter(|url| url.contains("://"))
                .collect();
            assert!(foreign.is_empty(), "{foreign:?}");
            assert!(
                !text.contains("innerHTML") && !text.contains("eval("),
                "text of others must never become markup"
            );
        }
    }
}
