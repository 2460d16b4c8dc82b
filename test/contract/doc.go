// Package contract asks a whole house what its OpenAPI document allows and what it forbids, and holds every answer against the document.
//
// It owns no list of operations: what it sends is made from the document that the house serves, with ids that it has learned from earlier
// answers. What it must be told by hand stands in tables in its tests: who may reach whose objects, and which rules of the rooms no
// schema can say. docs/contract.md tells how to run it and how to read what it found.
package contract
