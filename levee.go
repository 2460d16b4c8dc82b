// Package levee holds the words that every room of the house speaks: ids, money, actors, errors and pages.
//
// It owns no behaviour beyond them, imports nothing but the standard library, and knows neither SQL nor HTTP.
package levee
