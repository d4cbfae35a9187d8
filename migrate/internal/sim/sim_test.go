package sim

import (
	"flag"
	"fmt"
	"testing"
	"time"
)

var (
	seedFlag  = flag.Uint64("sim.seed", 0, "run only this seed, and print its history")
	seedsFlag = flag.Uint64("sim.seeds", 100, "run so many seeds")
	stopFlag  = flag.Int("sim.stop", 20, "stop after so many have failed")
)

func TestSeeds(t *testing.T) {
	if *seedFlag != 0 {
		s, err := Run(Options{Seed: *seedFlag, Log: func(at time.Duration, line string) { fmt.Printf("%12v  %s\n", at, line) }})
		t.Log(s)
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	var sum Stats
	bad := 0
	for seed := range *seedsFlag {
		s, err := Run(Options{Seed: seed})
		sum.Add(s)
		if err != nil {
			t.Error(err)
			if bad++; bad >= *stopFlag {
				break
			}
		}
	}
	t.Log(sum)
}
