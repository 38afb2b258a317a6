from agentdag.cli.main import main

main()
