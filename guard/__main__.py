"""`python -m guard` is the console command `guard`, where nothing is installed."""

from guard import command

if __name__ == "__main__":
    command.main()
