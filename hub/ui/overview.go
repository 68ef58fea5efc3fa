package ui

import (
	"gangway/hub/store"
)

// Overview is the data of the page "overview".
type Overview struct {
	Total    int
	Needs    []Todo
	States   []Share
	Facets   []Facet
	Arrivals Chart
	Events   []store.Event
	Commands []string // commands for the first onboarding; nil: the account has devices
}

// Todo is something that a person should look at.
type Todo struct {
	Badge
	N    int
	What string // words that follow the number
	Path string // the page to look at; empty: none
}

// Share is a value, such as the name of a model, and the number of devices with this value.
type Share struct {
	Badge   Badge // set if the value is the state of a device
	Value   string
	N       int
	Percent int
	Path    string // the list of these devices
}

// Facet holds the number of devices for each value of one field.
type Facet struct {
	Name   string
	Shares []Share
	Others int
}

// Chart is a chart of the number of devices that were onboarded on each day.
//
// The hub draws the chart as SVG, because thirty bars need no script: the chart works without
// JavaScript and in print, whereas a chart library would double the size of the page.
type Chart struct {
	Bars  []Bar
	Sum   int
	Days  int
	Most  int
	First string // the first day, in words
	Width int
}

// Bar is the bar of one day in a Chart. Its position and size are in units of the chart's view box.
type Bar struct {
	X, Y, Width, Height int
	Title               string
	None                bool // a day on which no device was onboarded
}

// Sizes of a chart, in units of its view box.
const (
	barStep, barWidth, chartHeight = 20, 14, 96
)

// NewChart draws a number for each day, the newest day last. The function `day` returns the name of
// the day with the index `i`.
func NewChart(numbers []int, day func(i int) string) Chart {
	c := Chart{Days: len(numbers), Width: barStep * len(numbers)}
	for _, n := range numbers {
		c.Sum += n
		c.Most = max(c.Most, n)
	}
	for i, n := range numbers {
		height := 2 // a day without onboarded devices is a line
		if n > 0 {
			height = max(4, n*chartHeight/c.Most)
		}
		what := " devices"
		if n == 1 {
			what = " device"
		}
		c.Bars = append(c.Bars, Bar{X: i*barStep + (barStep-barWidth)/2, Y: chartHeight - height, Width: barWidth, Height: height, Title: day(i) + ": " + Number(n) + what, None: n == 0})
	}
	if len(numbers) > 0 {
		c.First = day(0)
	}
	return c
}
