"""What each command does, reached by the cli as "module:function". Prints nothing: returns what to show."""
