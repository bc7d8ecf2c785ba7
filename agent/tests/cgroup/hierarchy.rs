//! Discovery, choice and scan of hierarchies, without root.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{CWD, Mode as Permissions, OFlags, mkdirat, openat};
use stallscope::host::cgroup::{
    CgroupId, Controller, CpuLimit, CpuStat, CpuStats, Hierarchy, Mode,
};

use super::fixture::{Fixture, proc_cgroups};

fn discover(fixture: &Fixture) -> Hierarchy {
    Hierarchy::discover(&fixture.proc(), None).expect("a hierarchy")
}

/// Returns the error's text, which must name the path.
fn refusal(fixture: &Fixture, controller: Option<Controller>, path: &str) -> String {
    let text = Hierarchy::discover(&fixture.proc(), controller)
        .expect_err("no hierarchy")
        .to_string();
    assert!(
        text.contains(&fixture.path(path).display().to_string()),
        "{text}"
    );
    text
}

#[test]
fn v1_with_cpu_and_cpuacct_together() {
    let mut fixture = Fixture::new(&proc_cgroups(4));
    fixture.v1_root("sys/cpu,cpuacct");
    fixture.v1("sys/cpu,cpuacct/docker/x");
    fixture.v1_root("sys/memory");
    fixture.mount("sys/memory", "/", "cgroup", "rw,memory");
    fixture.mount("sys/cpu,cpuacct", "/", "cgroup", "rw,cpu,cpuacct");
    let hierarchy = discover(&fixture);
    assert_eq!(
        (hierarchy.mode(), hierarchy.controller()),
        (Mode::V1, Controller::Cpu)
    );
    assert_eq!(hierarchy.mount(), fixture.path("sys/cpu,cpuacct"));
    assert!(
        hierarchy.reason().starts_with("cgroup v1: ")
            && !hierarchy.reason().contains("only a part")
    );
    let paths: Vec<String> = hierarchy
        .scan()
        .unwrap()
        .iter()
        .map(|cgroup| cgroup.path.to_string())
        .collect();
    assert_eq!(paths, ["/", "/docker", "/docker/x"]);
}

#[test]
fn hybrid_at_a_path_with_spaces() {
    let mut fixture = Fixture::new(&proc_cgroups(1));
    fixture.v1_root("my host\\fs/cpu");
    fixture.v2_root("my host\\fs/unified", "", "");
    fixture.mount("my host\\fs/cpu", "/", "cgroup", "rw,cpu");
    fixture.mount("my host\\fs/unified", "/", "cgroup2", "rw");
    let hierarchy = discover(&fixture);
    assert_eq!(
        (hierarchy.mode(), hierarchy.controller()),
        (Mode::Hybrid, Controller::Cpu)
    );
    assert_eq!(hierarchy.mount(), fixture.path("my host\\fs/cpu"));
}

#[test]
fn v2_takes_the_controller_with_the_widest_coverage() {
    let mut fixture = Fixture::new(&proc_cgroups(0));
    fixture.v2_host();
    fixture.mount("sys", "/", "cgroup2", "rw,nsdelegate");
    let hierarchy = discover(&fixture);
    assert_eq!(
        (hierarchy.mode(), hierarchy.controller()),
        (Mode::V2, Controller::Pids)
    );
    let reason = hierarchy.reason();
    assert!(
        reason.contains("pids controller is enabled for 8 of 8")
            && reason.contains("(cpu 5, memory 8)"),
        "{reason}"
    );

    let asked = Hierarchy::discover(&fixture.proc(), Some(Controller::Memory)).unwrap();
    assert_eq!(asked.controller(), Controller::Memory);

    fixture.write(
        "sys/system.slice/cgroup.subtree_control",
        "cpu memory pids\n",
    );
    assert_eq!(
        discover(&fixture).controller(),
        Controller::Cpu,
        "preferred where equal"
    );
    fixture.write("sys/cgroup.controllers", "cpu memory\n");
    fixture.write("sys/system.slice/cgroup.subtree_control", "memory\n");
    assert_eq!(
        discover(&fixture).controller(),
        Controller::Memory,
        "pids is not to be had"
    );
    assert!(refusal(&fixture, Some(Controller::Pids), "sys").contains("does not list it"));
}

#[test]
fn v2_with_nothing_enabled_or_nothing_there() {
    let mut fixture = Fixture::new("#subsys_name\thierarchy\tnum_cgroups\tenabled\n");
    fixture.v2_root("sys", "cpu pids", "");
    fixture.mount("sys", "/", "cgroup2", "rw");
    assert_eq!(discover(&fixture).controller(), Controller::Cpu);
    fixture.v2("sys/a", "");
    assert_eq!(discover(&fixture).controller(), Controller::Cpu);
}

#[test]
fn the_whole_hierarchy_is_preferred_to_a_part() {
    let mut fixture = Fixture::new(&proc_cgroups(0));
    fixture.v2("sys", "");
    fixture.write("sys/cgroup.controllers", "cpu pids\n");
    fixture.mount("sys", "/", "cgroup2", "rw");
    assert!(
        discover(&fixture)
            .reason()
            .contains("only a part of the host's hierarchy")
    );

    fixture.v2_root("the/host/sys", "cpu pids", "cpu");
    fixture.mount("the/host/sys", "/../..", "cgroup2", "rw");
    let hierarchy = discover(&fixture);
    assert_eq!(hierarchy.mount(), fixture.path("the/host/sys"));
    assert!(!hierarchy.reason().contains("only a part"));

    let mut fixture = Fixture::new(&proc_cgroups(2));
    fixture.v1("cpu");
    fixture.mount("cpu", "/docker/x", "cgroup", "rw,cpu");
    assert!(discover(&fixture).reason().contains("only a part"));
    fixture.v1_root("the/host/cpu");
    fixture.mount("the/host/cpu", "/", "cgroup", "rw,cpu");
    assert_eq!(discover(&fixture).mount(), fixture.path("the/host/cpu"));
}

#[test]
fn at_a_given_root() {
    let fixture = Fixture::new("");
    fixture.v2_host();
    let v2 = Hierarchy::at(&fixture.path("sys"), None).unwrap();
    assert_eq!((v2.mode(), v2.controller()), (Mode::V2, Controller::Pids));

    fixture.v1_root("host/cpu,cpuacct");
    for root in ["host", "host/cpu,cpuacct"] {
        let v1 = Hierarchy::at(&fixture.path(root), None).unwrap();
        assert_eq!(
            (v1.mode(), v1.mount()),
            (Mode::V1, fixture.path("host/cpu,cpuacct").as_path())
        );
    }
    fixture.v2_root("host/unified", "", "");
    assert_eq!(
        Hierarchy::at(&fixture.path("host"), None).unwrap().mode(),
        Mode::Hybrid
    );

    let text = |name: &str| {
        Hierarchy::at(&fixture.path(name), None)
            .unwrap_err()
            .to_string()
    };
    assert!(text("proc").contains("is not a cgroup hierarchy, expected"));
    assert!(text("nowhere").contains("cannot read") && text("nowhere").contains("nowhere"));
    assert!(text("host/unified").contains("offers none of the controllers"));
}

#[test]
fn refusals_say_what_to_do() {
    let mut fixture = Fixture::new(&proc_cgroups(4));
    assert!(refusal(&fixture, None, "proc/self/mountinfo").contains("--cgroup-root"));
    fixture.write("proc/self/mountinfo", b"one\n\xff\xfe garbage\n");
    assert!(refusal(&fixture, None, "proc/self/mountinfo").contains("line 1 reads \"one\""));
    fs::remove_file(fixture.path("proc/self/mountinfo")).unwrap();
    assert!(refusal(&fixture, None, "proc/self/mountinfo").contains("expected the list of mounts"));

    fixture.v1_root("sys/memory");
    fixture.mount("sys/memory", "/", "cgroup", "rw,memory");
    assert!(
        refusal(&fixture, None, "proc/cgroups").contains("on cgroup v1 hierarchy 4"),
        "v1 without cpu"
    );
    fixture.mount("sys/gone", "/", "cgroup", "rw,cpu");
    assert!(refusal(&fixture, None, "proc/cgroups").contains("no usable mount of it"));
    fixture.v1_root("sys/cpu");
    fixture.mount("sys/cpu", "/", "cgroup", "rw,cpu");
    assert!(
        refusal(&fixture, Some(Controller::Pids), "sys/cpu")
            .contains("each controller has a hierarchy of its own")
    );
    assert_eq!(discover(&fixture).mode(), Mode::V1);

    fixture.write("proc/cgroups", proc_cgroups(0));
    assert!(
        refusal(&fixture, None, "proc/cgroups").contains("type cgroup2"),
        "neither v1 nor v2"
    );
    fixture.write("proc/cgroups", "#subsys\ncpu\tmany\n");
    assert!(refusal(&fixture, None, "proc/cgroups").contains("line 2 reads \"cpu\\tmany\""));
    fs::remove_file(fixture.path("proc/cgroups")).unwrap();
    assert!(refusal(&fixture, None, "proc/cgroups").contains("expected the list of controllers"));

    let mut fixture = Fixture::new(&proc_cgroups(0));
    fixture.v2_root("sys", "hugetlb rdma", "");
    fixture.mount("sys", "/", "cgroup2", "rw");
    assert!(refusal(&fixture, None, "sys/cgroup.controllers").contains("\"hugetlb rdma\""));
}

#[test]
fn a_scan_gives_each_directory_with_its_inode_and_parent() {
    let fixture = Fixture::new("");
    fixture.v2_host();
    fixture.v2("sys/system.slice/a b\"c'\n\\x", "");
    std::os::unix::fs::symlink(fixture.path("sys"), fixture.path("sys/link")).unwrap();
    let hierarchy = Hierarchy::at(&fixture.path("sys"), None).unwrap();
    let cgroups = hierarchy.scan().unwrap();
    assert_eq!(cgroups.len(), 10);
    for cgroup in &cgroups {
        let dir = cgroup.path.below(hierarchy.mount());
        assert_eq!(cgroup.id, CgroupId(fs::metadata(&dir).unwrap().ino()));
        let above = dir.parent().filter(|_| !cgroup.path.is_root());
        assert_eq!(
            cgroup.parent,
            above.map(|above| CgroupId(fs::metadata(above).unwrap().ino()))
        );
    }
    assert!(
        cgroups
            .iter()
            .any(|cgroup| cgroup.path.as_bytes() == b"/system.slice/a b\"c'\n\\x")
    );
}

#[test]
fn a_path_too_long_to_open_hides_only_itself() {
    let fixture = Fixture::new("");
    fixture.v2_host();
    let name = "d".repeat(250);
    let mut dir = openat(
        CWD,
        fixture.path("sys"),
        OFlags::DIRECTORY,
        Permissions::empty(),
    )
    .unwrap();
    for _ in 0..20 {
        mkdirat(&dir, &name, Permissions::RWXU).unwrap();
        dir = openat(&dir, &name, OFlags::DIRECTORY, Permissions::empty()).unwrap();
    }
    let cgroups = Hierarchy::at(&fixture.path("sys"), None)
        .unwrap()
        .scan()
        .unwrap();
    let deep = cgroups
        .iter()
        .filter(|cgroup| cgroup.path.as_bytes().starts_with(b"/ddd"))
        .count();
    assert!((15..20).contains(&deep), "{deep} levels");
    assert_eq!(cgroups.len(), 9 + deep, "and everything else");
}

#[test]
fn an_unreadable_root_is_an_error() {
    let fixture = Fixture::new("");
    fixture.v2_host();
    let hierarchy = Hierarchy::at(&fixture.path("sys"), None).unwrap();
    fs::rename(fixture.path("sys"), fixture.path("away")).unwrap();
    let text = hierarchy.scan().unwrap_err().to_string();
    assert!(
        text.contains(&fixture.path("sys").display().to_string())
            && text.contains("check that it is mounted"),
        "{text}"
    );
}

fn cgroup_at(hierarchy: &Hierarchy, path: &str) -> stallscope::host::cgroup::Cgroup {
    let found = hierarchy
        .scan()
        .expect("a scan")
        .into_iter()
        .find(|cgroup| cgroup.path.as_bytes() == path.as_bytes());
    found.expect("the cgroup")
}

#[test]
fn cpu_limits_and_stats_of_v2() {
    let fixture = Fixture::new("");
    fixture.v2_host();
    fixture.write("sys/kubepods.slice/a/cpu.max", "150000 100000\n");
    fixture.write(
        "sys/kubepods.slice/a/cpu.stat",
        "usage_usec 7\nnr_periods 97\nnr_throttled 31\nthrottled_usec 23\n",
    );
    fixture.write("sys/kubepods.slice/b/cpu.max", "max 100000\n");
    fixture.write(
        "sys/kubepods.slice/b/cpu.stat",
        "usage_usec 7\nuser_usec 5\n",
    );
    let hierarchy = Hierarchy::at(&fixture.path("sys"), None).unwrap();
    let [a, b, scope] = ["/kubepods.slice/a", "/kubepods.slice/b", "/init.scope"]
        .map(|path| cgroup_at(&hierarchy, path));

    let mut stats = CpuStats::new(&hierarchy, 1);
    let expected = CpuStat {
        periods: 97,
        throttled_periods: 31,
        throttled_ns: 23_000,
    };
    assert_eq!(
        stats.limit(&a).unwrap(),
        Some(CpuLimit {
            quota_us: Some(150_000),
            period_us: 100_000
        })
    );
    assert_eq!(stats.stat(&a).unwrap(), Some(expected));
    assert_eq!(
        stats.limit(&b).unwrap(),
        Some(CpuLimit {
            quota_us: None,
            period_us: 100_000
        })
    );
    assert_eq!(stats.stat(&b).unwrap(), None, "cpu is not enabled");
    assert_eq!(
        (stats.limit(&scope).unwrap(), stats.stat(&scope).unwrap()),
        (None, None)
    );
    assert_eq!(stats.held(), 1, "the bound");

    fixture.write(
        "sys/kubepods.slice/a/cpu.stat",
        "nr_periods 98\nnr_throttled 31\nthrottled_usec 23\n",
    );
    assert_eq!(
        stats.stat(&a).unwrap(),
        Some(CpuStat {
            periods: 98,
            ..expected
        }),
        "read anew through the held file"
    );
    stats.forget(a.id);
    assert_eq!(stats.held(), 0);
}

#[test]
fn cpu_limits_of_v1() {
    let fixture = Fixture::new("");
    fixture.v1_root("cpu");
    fixture.v1("cpu/x");
    let hierarchy = Hierarchy::at(Path::new(&fixture.path("cpu")), None).unwrap();
    let mut stats = CpuStats::new(&hierarchy, CpuStats::DEFAULT_HELD);
    let x = cgroup_at(&hierarchy, "/x");
    assert_eq!(
        stats.limit(&x).unwrap(),
        Some(CpuLimit {
            quota_us: None,
            period_us: 100_000
        })
    );
    fixture.write("cpu/x/cpu.cfs_quota_us", "400000\n");
    assert_eq!(stats.limit(&x).unwrap().and_then(CpuLimit::cpus), Some(4.0));
    assert_eq!(stats.stat(&x).unwrap(), Some(CpuStat::default()));
}
