//! `vrrp_script`, `vrrp_track_process`, `track_file`, `track_mysql`.

use super::{
    Argument::*,
    Status::{Acts, Ours},
};

const COUNT: i64 = i32::MAX as i64;
/// keepalived reads seconds into 32 bits of microseconds.
const LONG: u64 = 4_294_967_000;

keywords! {
    VrrpScript: "script", Command { user: false }, "", A, Acts, "the command; exit code 0 is good";
    VrrpScript: "interval", Seconds { min: 1_000, max: LONG }, "1", A, Acts, "time from one run to the next; a run that lasts longer delays the next";
    VrrpScript: "timeout", Seconds { min: 0, max: LONG }, "interval", A, Acts, "a run that lasts longer counts as bad and is ended: TERM, and KILL two seconds later";
    VrrpScript: "weight", Words("-253..253 [reverse]"), "0", A, Acts, "negative: subtracted while bad; positive: added while good; 0: bad means FAULT";
    VrrpScript: "rise", Int { min: 1, max: COUNT }, "1", A, Acts, "good runs in a row until good";
    VrrpScript: "fall", Int { min: 1, max: COUNT }, "1", A, Acts, "bad runs in a row until bad";
    VrrpScript: "user", User, "script_user", B, Acts, "who runs it";
    VrrpScript: "init_fail", Nothing, "off", B, Acts, "starts as bad";
    TrackProcess: "process", Words("COMMAND [ARGS]"), "", B, Acts, "what to look for";
    TrackProcess: "param_match", Choice(&["initial", "partial"]), "", B, Acts, "how arguments are compared";
    TrackProcess: "full_command", Nothing, "off", C, Acts, "compares the command line and not the name that the kernel keeps";
    TrackProcess: "weight", Words("-253..253 [reverse]"), "0", B, Acts, "negative: subtracted while bad; positive: added while good; 0: bad means FAULT";
    TrackProcess: "quorum", Int { min: 1, max: 65_535 }, "1", B, Acts, "least number of processes";
    TrackProcess: "quorum_max", Int { min: 0, max: 65_535 }, "", B, Acts, "greatest number of processes";
    TrackProcess: "delay", Seconds { min: 1, max: 3_600_000_000 }, "0", C, Acts, "fork_delay and terminate_delay";
    TrackProcess: "fork_delay", Seconds { min: 1, max: 3_600_000_000 }, "0", C, Acts, "from more processes to when that counts";
    TrackProcess: "terminate_delay", Seconds { min: 1, max: 3_600_000_000 }, "0", C, Acts, "from fewer processes to when that counts";
    TrackFile: "file", Word("FILE"), "", B, Acts, "holds a number";
    TrackFile: "weight", Words("N [reverse]"), "1", B, Acts, "the number times this changes the priority";
    TrackFile: "init_file", Optional("[VALUE] [overwrite]"), "", C, Acts, "writes the file at start";
    TrackMysql: "weight", Words("-253..253 [reverse]"), "0", A, Ours, "negative: subtracted while down; positive: added while up; 0: down means FAULT";
}
