package trust

// Origin returns the first line of a built-in certificate's file.
var Origin = origin
