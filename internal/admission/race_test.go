//go:build race

package admission

// raceDetector is set where the race detector makes pools forget at random.
const raceDetector = true
