// Command bench measures what Tidelock promises about speed, as ratios of things measured in the same run, and prints
// one table. Nothing fails when a figure is missed: machines differ, and a timed test is a test of the machine.
//
//	bench [-parts sweep,audit,events,peer,pull,push,memory,lists,log,identities,mirror] [flags]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"time"
)

// options are the sizes of a run.
type options struct {
	parts   []string
	engines []engine
	bin     string
	dir     string

	tags   int
	rate   int
	writes int
	events int
	rounds int

	layer   int64
	uploads int
	names   int
	entries int

	repositories int
}

// part is one measurement: it adds its figures to the table.
type part struct {
	name string
	what string
	run  func(context.Context, options, *table) error
}

var parts = []part{
	{"sweep", "a policy over many tags, and pushes beside it", sweep},
	{"audit", "what the audit entry costs a tag write", auditCost},
	{"events", "Events from the audit log into a kube-apiserver", events},
	{"peer", "push and pull beside distribution v3", peer},
	{"pull", "pull of a large layer beside a server of files", pullLayer},
	{"push", "push of a large layer beside a loop that hashes, writes and syncs", pushLayer},
	{"memory", "what a registry takes for many uploads at once", uploadMemory},
	{"lists", "pages of long lists of tags and repositories", lists},
	{"log", "pages of a long audit log by each filter, its export and its check", logs},
	{"identities", "what it costs a pull to find out who pulls", identities},
	{"mirror", "a mirror of a namespace beside skopeo sync", mirrors},
}

func main() {
	if len(os.Args) == 4 && os.Args[1] == serveFilesCommand {
		fmt.Fprintln(os.Stderr, serveFiles(os.Args[2], os.Args[3]))
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) (err error) {
	var o options
	names, on := make([]string, len(parts)), make([]string, len(engines))
	for i, p := range parts {
		names[i] = p.name
	}
	for i, e := range engines {
		on[i] = e.name
	}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	list := flags.String("parts", strings.Join(names, ","), "what to measure, `names` separated by commas")
	engineList := flags.String("engines", strings.Join(on, ","), "what registries run on in the parts from peer on, `names` separated by commas")
	flags.StringVar(&o.bin, "bin", "bin", "`folder` of tidelock and registry-peer")
	flags.StringVar(&o.dir, "dir", "", "`folder` for data, on the disk to measure; the system's for temporary files by default")
	flags.IntVar(&o.tags, "tags", 100_000, "sweep: `number` of tags")
	flags.IntVar(&o.rate, "rate", 200, "sweep: `pushes` a second beside the sweep")
	flags.IntVar(&o.writes, "writes", 1000, "audit: tag `writes` in a turn")
	flags.IntVar(&o.events, "events", 5000, "events: `number` of entries to turn into Events")
	flags.IntVar(&o.rounds, "rounds", 5, "how many `times` things are measured in turn")
	flags.IntVar(&o.uploads, "uploads", 64, "memory: `number` of uploads at once")
	flags.IntVar(&o.names, "names", 200_000, "lists: `number` of tags and of repositories")
	flags.IntVar(&o.entries, "entries", 500_000, "log: `number` of entries of the audit log; 10 million take half an hour to make")
	flags.IntVar(&o.repositories, "repositories", 200, "mirror: `number` of repositories of the upstream; a quarter of them is copied beside skopeo")
	size := flags.Int64("layer", 100, "pull, push, memory: `MiB` of a layer")
	profile := flags.String("cpuprofile", "", "write a CPU profile of this process to `file`")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	o.layer = *size << 20
	o.parts = strings.Split(*list, ",")
	for _, name := range o.parts {
		if !slices.Contains(names, name) {
			return fmt.Errorf("there is no part %q; there are %s", name, strings.Join(names, ", "))
		}
	}
	for _, name := range strings.Split(*engineList, ",") {
		at := slices.Index(on, name)
		if at < 0 {
			return fmt.Errorf("there is no engine %q; there are %s", name, strings.Join(on, ", "))
		}
		o.engines = append(o.engines, engines[at])
	}
	// One folder for all, so that an interrupted run leaves nothing behind either.
	if o.dir, err = os.MkdirTemp(o.dir, "tidelock-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(o.dir)) }()
	if *profile != "" {
		file, err := os.Create(*profile)
		if err != nil {
			return err
		}
		defer file.Close()
		if err := pprof.StartCPUProfile(file); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}

	fmt.Println(machine(o.dir))
	t := &table{}
	for _, p := range parts {
		if !slices.Contains(o.parts, p.name) {
			continue
		}
		start := time.Now()
		t.part = p.name
		fmt.Fprintf(os.Stderr, "%s: %s …\n", p.name, p.what)
		if err := p.run(ctx, o, t); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		fmt.Fprintf(os.Stderr, "%s: done in %.0f s\n", p.name, time.Since(start).Seconds())
	}
	t.print(os.Stdout)
	return nil
}

// machine says what the figures were measured on.
func machine(dir string) string {
	facts := []string{
		fmt.Sprintf("%s/%s, %d CPUs", runtime.GOOS, runtime.GOARCH, runtime.NumCPU()),
	}
	if model := field("/proc/cpuinfo", "model name"); model != "" {
		facts = append(facts, model)
	}
	if memory := field("/proc/meminfo", "MemTotal"); memory != "" {
		facts = append(facts, memory+" memory")
	}
	if load := load(); load != "" {
		facts = append(facts, "load "+load+" before the start")
	}
	facts = append(facts, fmt.Sprintf("fsync of 4 KiB %s", shortest(fsyncTime(dir))), runtime.Version(), time.Now().Format(time.DateOnly))
	return strings.Join(facts, "; ")
}

// load is the load average of the last minute, empty where it is not known.
func load() string {
	content, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return ""
	}
	load, _, _ := strings.Cut(string(content), " ")
	return load
}

// field reads the first "name : value" of a file of /proc, empty where there is none.
func field(file, name string) string {
	content, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(content)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// fsyncTime is the median time that the disk takes to make a small write durable, on which every push depends.
func fsyncTime(dir string) time.Duration {
	file, err := os.CreateTemp(dir, "fsync-")
	if err != nil {
		return 0
	}
	defer os.Remove(file.Name())
	defer file.Close()
	var times samples
	for range 50 {
		start := time.Now()
		if _, err := file.Write(make([]byte, 4096)); err != nil {
			return 0
		}
		if err := file.Sync(); err != nil {
			return 0
		}
		times = append(times, time.Since(start))
	}
	return times.quantile(0.5)
}
