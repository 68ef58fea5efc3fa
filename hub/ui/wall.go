package ui

import "time"

// Wall is the data of the page "wall", for a screen on a wall.
type Wall struct {
	Counts   []WallCount
	Underway []WallMachine // machines that have not onboarded yet, the newest first
	// MoreWaiting is the number of machines that wait for their owner's decision and are not in
	// Underway.
	MoreWaiting int
	Arrived     []WallMachine // machines that have onboarded, the newest first
	// Version is the version of the hub's program. When it changes, the browser loads the whole
	// page again.
	Version string
}

// WallCount is a number of devices or machines, with the badge of their state.
type WallCount struct {
	Badge
	N int
}

// WallMachine is a machine that is onboarding or has onboarded. Its texts contain no character that
// Visible escapes.
type WallMachine struct {
	Name, Model string
	State       Badge
	Took        string // the duration of the onboarding, or its duration until now
	Time        time.Time
	New         bool // the machine onboarded within the last minutes
	ID          string
}
