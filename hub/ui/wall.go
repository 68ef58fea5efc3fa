package ui

import "time"

// Wall is the data of the page "wall", for a screen on a wall.
type Wall struct {
	Counts   []WallCount
	Underway []WallMachine // machines that have not onboarded yet, the newest first
	Arrived  []WallMachine // the newest first
	// Version changes with the hub's program: then the whole page is loaded again.
	Version string
}

// WallCount is a number.
type WallCount struct {
	Badge
	N int
}

// WallMachine is a machine that arrives, or has arrived. Its texts contain no character that Visible
// escapes.
type WallMachine struct {
	Name, Model string
	State       Badge
	Took        string // how long onboarding took, or took until now
	Time        time.Time
	New         bool // it arrived within the last minutes
	ID          string
}
