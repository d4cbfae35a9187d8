package migrate

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/sim"
)

var (
	runMutants  = flag.Bool("mutants", false, "TestMutants: plant each bug and let the simulator find it")
	mutantSeeds = flag.Int("mutants.seeds", 10_000, "TestMutants: within so many seeds")
	mutantName  = flag.String("mutants.run", "", "TestMutants: only those with a name that contains this")
)

// TestMutants plants known bugs in copies of the sources, one at a time: the simulator must find each, or it would not
// find one like it; and so must the test that is named for a bug that takes more chance than a simulation has. Without
// -mutants it only makes sure that every bug can still be planted.
func TestMutants(t *testing.T) {
	root, err := filepath.Abs("..")
	require.NoError(t, err)
	files, err := filepath.Glob("testdata/mutants/*.txt")
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(files), 14)
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".txt")
		t.Run(name, func(t *testing.T) {
			m := readMutant(t, root, file)
			if !*runMutants || !strings.Contains(name, *mutantName) {
				return
			}
			if m.test != "" {
				t.Logf("%s\n%s", m.about, failMutant(t, root, m))
				return
			}
			seeds, found := huntMutant(t, root, m)
			if seeds == 0 {
				t.Fatalf("not found within %d seeds: %s", *mutantSeeds, m.about)
			}
			t.Logf("%s\nfound by seed %d: %s", m.about, seeds, found)
		})
	}
}

// mutant is a bug: files as they are with it.
type mutant struct {
	about     string
	pkg, test string            // what finds it, if it is not the simulator
	amnesia   bool              // the simulator finds it where the resolver loses its records
	files     map[string]string // by path from the root of the module
}

// readMutant reads a file of testdata/mutants. A line of description, and perhaps one that says "found by", a package and
// a test, or "found with amnesia", is followed by edits, each of which says
//
//	== path
//	-- old
//	lines that are in the file exactly once
//	-- new
//	lines to be in their place
func readMutant(t *testing.T, root, file string) mutant {
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	about, edits, ok := strings.Cut(string(text), "\n")
	require.True(t, ok)
	m := mutant{about: about, files: make(map[string]string)}
	if line, rest, _ := strings.Cut(edits, "\n"); line == "found with amnesia" {
		m.amnesia, edits = true, rest
	} else if strings.HasPrefix(line, "found by ") {
		_, err := fmt.Sscanf(line, "found by %s %s", &m.pkg, &m.test)
		require.NoError(t, err)
		edits = rest
	}
	for edit := range strings.SplitSeq("\n"+edits, "\n== ") {
		if strings.TrimSpace(edit) == "" {
			continue
		}
		path, edit, ok1 := strings.Cut(edit, "\n-- old\n")
		old, new, ok2 := strings.Cut(edit, "\n-- new\n")
		require.True(t, ok1 && ok2, "%s: malformed edit of %s", file, path)
		source, ok := m.files[path]
		if !ok {
			b, err := os.ReadFile(filepath.Join(root, path))
			require.NoError(t, err)
			source = string(b)
		}
		require.Equal(t, 1, strings.Count(source, old), "%s: %s must contain exactly once:\n%s", file, path, old)
		m.files[path] = strings.Replace(source, old, strings.TrimSuffix(new, "\n"), 1)
	}
	require.NotEmpty(t, m.files)
	return m
}

var failedSeed = regexp.MustCompile(`seed (\d+), at .*`)

// overlay writes the mutant's files, and returns what makes the go command use them.
func (m mutant) overlay(t *testing.T, root string) string {
	dir := t.TempDir()
	overlay := struct{ Replace map[string]string }{make(map[string]string)}
	for path, source := range m.files {
		to := filepath.Join(dir, strings.ReplaceAll(path, "/", "_"))
		require.NoError(t, os.WriteFile(to, []byte(source), 0o600))
		overlay.Replace[filepath.Join(root, path)] = to
	}
	b, err := json.Marshal(overlay)
	require.NoError(t, err)
	list := filepath.Join(dir, "overlay.json")
	require.NoError(t, os.WriteFile(list, b, 0o600))
	return "-overlay=" + list
}

// huntMutant runs the simulator on a mutant, and returns the first seed that failed, counted from 1; 0 if none did.
func huntMutant(t *testing.T, root string, m mutant) (seed int, found string) {
	cmd := exec.CommandContext(t.Context(), "go", "test", m.overlay(t, root), "-vet=off", "-count=1", "-run",
		"^TestSimulation$",
		"-timeout=30m", ".", "-args", fmt.Sprintf("-sim.seeds=%d", *mutantSeeds), "-sim.stop=1",
		fmt.Sprintf("-sim.amnesia=%t", m.amnesia))
	out, err := cmd.CombinedOutput()
	if err == nil {
		return 0, ""
	}
	match := failedSeed.FindStringSubmatch(string(out))
	require.NotNil(t, match, "it does not run:\n%s", out)
	_, err = fmt.Sscan(match[1], &seed)
	require.NoError(t, err)
	_, err = sim.Run(sim.Options{Seed: uint64(seed), Amnesia: m.amnesia})
	require.NoError(t, err, "it is not the planted bug that was found")
	return seed, match[0]
}

// failMutant runs the test that is to fail on a mutant, and on nothing else, and returns what it says.
func failMutant(t *testing.T, root string, m mutant) string {
	run := func(args ...string) (string, error) {
		args = append([]string{"test", "-vet=off", "-count=1", "-timeout=2m", "-run", "^" + m.test + "$"}, args...)
		cmd := exec.CommandContext(t.Context(), "go", append(args, "./"+m.pkg)...)
		cmd.Dir = root
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := run("-v")
	require.NoError(t, err, "%s", out)
	require.Contains(t, out, "--- PASS: "+m.test)
	out, err = run(m.overlay(t, root))
	require.Error(t, err, "not found by %s of %s: %s", m.test, m.pkg, m.about)
	failed := regexp.MustCompile(`--- FAIL: .*`).FindString(out)
	require.NotEmpty(t, failed, "it does not run:\n%s", out)
	return failed
}
