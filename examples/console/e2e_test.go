package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/examples/internal/leaktest"
)

// consoleEnv makes this test program run as the console.
const consoleEnv = "ROAM_CONSOLE_TEST"

func TestMain(m *testing.M) {
	if os.Getenv(consoleEnv) != "" {
		main()
	}
	code := m.Run()
	if built != "" {
		os.RemoveAll(built)
	}
	leaktest.Exit(code, 1)
}

var built string // directory of the programs, removed by TestMain

// build builds the other programs once.
var build = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "roam-e2e")
	if err != nil {
		return "", err
	}
	built = dir
	const examples = "github.com/roam-go/roam/examples/"
	out, err := exec.Command("go", "build", "-o", dir+string(filepath.Separator), examples+"dns",
		examples+"chatnode").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	return dir, err
})

// program is a running program.
type program struct {
	t     *testing.T
	name  string
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines chan string // standard output
	ended chan struct{}
	all   []string // lines read so far
	from  int      // index of the next line for await

	mu   sync.Mutex
	errs strings.Builder // standard error
	more chan struct{}   // capacity 1: signals new standard error
}

const patience = 15 * time.Second

var configs sync.Map // the configuration directory of each test, by its name

// environ returns the environment of the programs of a test, which have a configuration directory of their own.
func environ(t *testing.T) []string {
	dir := configDir(t)
	return append(os.Environ(), "XDG_CONFIG_HOME="+dir, "HOME="+dir, "AppData="+dir)
}

// configDir returns the configuration directory of a test, which setConfigDir can change.
func configDir(t *testing.T) string {
	if dir, ok := configs.Load(t.Name()); ok {
		return dir.(string)
	}
	dir := t.TempDir()
	setConfigDir(t, dir)
	return dir
}

func setConfigDir(t *testing.T, dir string) {
	if _, again := configs.Swap(t.Name(), dir); !again {
		t.Cleanup(func() { configs.Delete(t.Name()) })
	}
}

// start starts dns, chatnode or console. The program is killed at the end of the test.
func start(t *testing.T, name string, args ...string) *program {
	t.Helper()
	p := &program{t: t, name: name, lines: make(chan string, 10_000), ended: make(chan struct{}), more: make(chan struct{}, 1)}
	if name == "console" {
		p.cmd = exec.Command(os.Args[0], args...)
		p.cmd.Env = append(environ(t), consoleEnv+"=1")
	} else {
		dir, err := build()
		require.NoError(t, err)
		p.cmd = exec.Command(filepath.Join(dir, name), args...)
		p.cmd.Env = environ(t)
	}
	p.cmd.Stderr = p
	stdout, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	p.stdin, err = p.cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())
	go func() {
		defer close(p.ended)
		in := bufio.NewScanner(stdout)
		for in.Scan() {
			p.lines <- in.Text()
		}
		close(p.lines)
		p.cmd.Wait()
	}()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-p.ended
	})
	return p
}

func (p *program) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case p.more <- struct{}{}:
	default:
	}
	return p.errs.Write(b)
}

// awaitError waits for a text on standard error.
func (p *program) awaitError(want string) {
	p.t.Helper()
	timeout := time.After(patience)
	for !strings.Contains(p.stderr(), want) {
		select {
		case <-p.more:
		case <-timeout:
			require.FailNow(p.t, p.name+": no such output", "no %q in %q", want, p.stderr())
		}
	}
}

func (p *program) stderr() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.errs.String()
}

// await waits for a matching line after the line that it returned last.
func (p *program) await(pattern string) string {
	p.t.Helper()
	re := regexp.MustCompile(pattern)
	timeout := time.After(patience)
	for {
		for p.from < len(p.all) {
			p.from++
			if l := p.all[p.from-1]; re.MatchString(l) {
				return l
			}
		}
		select {
		case l, ok := <-p.lines:
			if !ok {
				require.FailNow(p.t, p.name+" has exited", "no %q in %q; %s", pattern, p.all, p.stderr())
			}
			p.all = append(p.all, l)
		case <-timeout:
			require.FailNow(p.t, p.name+": no such output", "no %q in %q; %s", pattern, p.all, p.stderr())
		}
	}
}

func (p *program) say(format string, args ...any) {
	p.t.Helper()
	_, err := fmt.Fprintf(p.stdin, format+"\n", args...)
	require.NoError(p.t, err)
}

// end waits until the program exits and returns its exit status. p.all then contains all lines.
func (p *program) end() int {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(patience):
		require.FailNow(p.t, p.name+" does not exit", "%s", p.stderr())
	}
	for l := range p.lines {
		p.all = append(p.all, l)
	}
	return p.cmd.ProcessState.ExitCode()
}

// texts returns the messages of one kind that a client wrote to standard output.
func (p *program) texts(kind string) (texts []string) {
	p.t.Helper()
	for _, l := range p.all {
		var m line
		require.NoError(p.t, json.Unmarshal([]byte(l), &m), "%s", l)
		if m.Kind == kind {
			texts = append(texts, m.From+": "+m.Text)
		}
	}
	return texts
}

// startDNS starts a DNS and returns flags that refer to it. The programs find its code in a file.
func startDNS(t *testing.T, args ...string) []string {
	t.Helper()
	_, flags := runDNS(t, args...)
	return flags
}

// runDNS is like startDNS, and also returns the program.
func runDNS(t *testing.T, args ...string) (dns *program, flags []string) {
	t.Helper()
	dns = start(t, "dns", append([]string{"-port", "0"}, args...)...)
	defer dns.await("names are kept") // by then the file exists
	_, port, _ := strings.Cut(dns.await("listening on"), "listening on 127.0.0.1:")
	return dns, []string{"-dns_port", port, "-every", "400ms"}
}

// loseRecordAndHost starts a DNS again without its names, and kills the active host meanwhile.
func loseRecordAndHost(t *testing.T, dns, host *program, flags []string, state string) {
	t.Helper()
	require.NoError(t, dns.cmd.Process.Signal(os.Interrupt))
	require.Zero(t, dns.end())
	require.NoError(t, os.Remove(state))
	require.NoError(t, host.cmd.Process.Kill())
	<-host.ended
	start(t, "dns", "-port", flags[1], "-state", state).await("no names are known yet")
}

func with(flags []string, more ...string) []string {
	return append(append([]string{}, flags...), more...)
}

func TestChatOverMoves(t *testing.T) {
	flags := startDNS(t)
	node := start(t, "chatnode", with(flags, "-s")...)
	node.await("serving backend.com")
	alice := start(t, "console", with(flags, "-name", "alice", "-json")...)
	alice.await(`"kind":"joined","from":"alice"`)
	bob := start(t, "console", with(flags, "-name", "bob", "-client_only")...)
	alice.await(`"kind":"joined","from":"bob"`)

	// Lines sent before, between and after moves arrive once and in order at both clients.
	const rounds, each = 3, 20
	for round := range rounds {
		for i := range each {
			alice.say("from alice %d", round*each+i)
			bob.say("from bob %d", round*each+i)
		}
		var moved line
		require.NoError(t, json.Unmarshal([]byte(alice.await(`"kind":"moved"`)), &moved))
		require.NotZero(t, moved.Epoch)
		require.NotEmpty(t, moved.Host)
		require.NotNil(t, moved.PauseMS)
	}
	bob.say("/msg alice between us")
	alice.await("between us")
	bob.say("that is all")
	alice.await("that is all")
	require.NoError(t, alice.stdin.Close())
	require.Zero(t, alice.end(), "%s", alice.stderr())
	require.Equal(t, []string{"bob: between us"}, alice.texts("private"))
	bob.await("alice left")
	require.NoError(t, bob.stdin.Close())
	require.Zero(t, bob.end(), "%s", bob.stderr())
	require.Contains(t, strings.Join(bob.all, "\n"), "* backend.com moved to host-")

	for _, name := range []string{"alice", "bob"} {
		var want []string
		for i := range rounds * each {
			want = append(want, fmt.Sprintf("%s: from %s %d", name, name, i))
		}
		for who, saw := range map[string][]string{"alice": alice.texts("message"), "bob": bob.all} {
			saw = slices.DeleteFunc(slices.Clone(saw), func(l string) bool { return !strings.HasPrefix(l, name+": from") })
			require.Equal(t, want, saw, "lines received by %s", who)
		}
	}

	require.NoError(t, node.cmd.Process.Signal(os.Interrupt))
	require.Zero(t, node.end())
	require.Contains(t, strings.Join(node.all, "\n"), "the chat backend.com has ended: no other host")
}

func TestConsolesHost(t *testing.T) {
	flags := startDNS(t)
	alice := start(t, "console", with(flags, "-s", "-name", "alice", "-min_n", "2")...)
	alice.say("hello?")
	alice.await("alice joined; waiting for 1 more to begin")
	second := start(t, "chatnode", with(flags, "-s")...)
	second.await("backend.com is already served by host-.*; standing by")
	bob := start(t, "console", with(flags, "-name", "bob", "-every", "0")...)
	bob.await("alice: hello?") // held until bob joined
	bob.say("/who")
	bob.await(`2 participants: alice, bob \(you\)`)

	other := start(t, "console", with(flags, "-name", "Alice", "-client_only")...)
	require.Equal(t, 1, other.end())
	require.Contains(t, other.stderr(), `the name "Alice" is taken`)
	require.Contains(t, other.stderr(), "-name")

	brief := start(t, "console", with(flags, "-name", "brief", "-client_only")...)
	brief.say("first and last words")
	require.NoError(t, brief.stdin.Close())
	require.Zero(t, brief.end(), "%s", brief.stderr())
	require.Contains(t, brief.all, "brief: first and last words")

	// All but bob leave; the chat continues on his host.
	require.NoError(t, alice.stdin.Close())
	require.Zero(t, alice.end(), "%s", alice.stderr())
	require.NoError(t, second.cmd.Process.Signal(os.Interrupt))
	require.Zero(t, second.end())
	bob.await("alice left")
	bob.say("alone")
	bob.await("bob: alone")
	bob.say("/nonsense")
	require.NoError(t, bob.stdin.Close())
	require.Equal(t, 1, bob.end(), "a line failed")
	require.Contains(t, bob.stderr(), "unknown command /nonsense")
	require.Contains(t, bob.stderr(), "has ended: no other host")
}

func TestHostCrash(t *testing.T) {
	flags := startDNS(t)
	flags = with(flags, "-every", "0")
	node := start(t, "chatnode", with(flags, "-s")...)
	node.await("serving backend.com")
	other := start(t, "chatnode", flags...)
	other.await("standing by with a copy")
	alice := start(t, "console", with(flags, "-name", "alice", "-client_only")...)
	alice.say("before")
	alice.await("alice: before")
	require.NoError(t, node.cmd.Process.Kill())
	alice.say("after")
	alice.await("alice: after")
	require.Equal(t, 1, strings.Count(strings.Join(alice.all, "\n"), "before"), "no duplicates")
	require.NoError(t, other.cmd.Process.Kill())
	<-other.ended

	third := start(t, "chatnode", with(flags, "-s")...)
	require.Equal(t, 1, third.end())
	require.Contains(t, third.stderr(), "are lost, and its messages with them")
	require.Contains(t, third.stderr(), "-s -reset")
	start(t, "chatnode", with(flags, "-s", "-reset")...).await("serving backend.com")
	require.Equal(t, 1, alice.end(), "the state is lost, and alice is informed")
	require.Contains(t, alice.stderr(), "joining the chat that was reset")
}

// The DNS loses its records, and the active host dies meanwhile: a console that stands by reports that, and /reset continues
// the chat with its copy.
func TestConsoleContinuesAlone(t *testing.T) {
	state := filepath.Join(t.TempDir(), "records")
	dns, flags := runDNS(t, "-state", state)
	flags = with(flags, "-every", "0")
	alice := start(t, "console", with(flags, "-s", "-name", "alice")...)
	alice.await("alice joined")
	bob := start(t, "console", with(flags, "-s", "-name", "bob")...)
	bob.await("bob joined")
	// While alice's host is active, /reset is refused. The text shows that bob's host has got its copy.
	for deadline := time.Now().Add(patience); !strings.Contains(bob.stderr(), "is active on host"); {
		require.True(t, time.Now().Before(deadline), "%s", bob.stderr())
		bob.say("/reset")
		time.Sleep(100 * time.Millisecond)
	}
	carol := start(t, "console", with(flags, "-name", "carol")...)
	carol.await("carol joined")
	carol.say("/reset")
	carol.awaitError("this process holds no copy of backend.com")
	alice.say("from alice")
	bob.await("alice: from alice")
	bob.say("from bob")
	carol.await("bob: from bob")

	loseRecordAndHost(t, dns, alice, flags, state)
	bob.awaitError("that it holds (/reset calls it)")
	newcomer := start(t, "console", with(flags, "-s", "-name", "dora")...)
	require.Equal(t, 1, newcomer.end())
	require.Contains(t, newcomer.stderr(), "That call is /reset in the console on that host")

	bob.say("/reset")
	bob.await(`\* this process serves backend.com, and continues it with its copy`)
	bob.awaitError("joining the chat that was reset")
	bob.await("alice: from alice") // of the new session's history
	bob.await("bob: from bob")
	bob.say("alone now")
	bob.await("bob: alone now")
	bob.say("/where")
	bob.await("served by this process")
	require.Equal(t, 1, carol.end(), "without a terminal, only the console that continued the chat joins again")
	require.Contains(t, carol.stderr(), "joining the chat that was reset")
	require.Equal(t, 1, strings.Count(bob.stderr(), "(/reset calls it)"), "%s", bob.stderr())
	require.NoError(t, bob.stdin.Close())
	require.Equal(t, 1, bob.end(), "the first /reset has failed")
	require.Contains(t, bob.stderr(), "has ended: no other host")
}

func TestInputEndsWithoutHost(t *testing.T) {
	flags := with(startDNS(t), "-every", "0", "-standbys", "0")
	node := start(t, "chatnode", with(flags, "-s")...)
	node.await("serving backend.com")
	alice := start(t, "console", with(flags, "-name", "alice", "-client_only")...)
	alice.await("alice joined")
	require.NoError(t, node.cmd.Process.Kill())
	<-node.ended
	alice.say("is anybody there?")
	require.NoError(t, alice.stdin.Close())
	alice.awaitError("does not answer: waiting until it accepts the input")
	require.NoError(t, alice.cmd.Process.Signal(os.Interrupt))
	require.Equal(t, 1, alice.end())
	require.Contains(t, alice.stderr(), "not all input was sent")
}

func TestStartErrors(t *testing.T) {
	console := start(t, "console", "-open", "-dns_port", "1", "-name", "alice")
	require.Equal(t, 1, console.end())
	require.Contains(t, console.stderr(), "console: no DNS at 127.0.0.1:1.")
	for _, args := range [][]string{{"-open", "-s", "-client_only"}, {"-open", "-name="}, {"-dns_port", "x"}, {"-dns_port", "1"}} {
		console = start(t, "console", args...)
		require.Equal(t, 2, console.end())
		require.NotEmpty(t, console.stderr())
	}
	flags := startDNS(t)
	dns := start(t, "dns", "-port", flags[1], "-state", "")
	require.Equal(t, 1, dns.end())
	require.Contains(t, dns.stderr(), "the port of 127.0.0.1:"+flags[1]+" is in use")
}
