package web

import "levee"

// Money is an amount as the world sees it.
type Money struct {
	Amount   int64  `json:"amount" doc:"In the currency's minor unit (cent, fen)"`
	Currency string `json:"currency" minLength:"3" maxLength:"3" example:"CNY" doc:"ISO 4217"`
}

// MoneyOf shows an amount.
func MoneyOf(m levee.Money) Money { return Money{Amount: m.Minor, Currency: m.Currency} }
