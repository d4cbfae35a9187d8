// Package chatcore is a chat room that roams.
package chatcore
